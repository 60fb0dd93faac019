"`python -m optimcb` prints what the library finds around it, for bug reports."
from optimcb.environment import doctor

if __name__ == '__main__': print(doctor())
