"Models that fastai has no more: a wide ResNet, and a language model of quasi-recurrent layers."
import torch
from fastai.text.models.awdlstm import AWD_LSTM, WeightDropout
from torch import nn

__all__ = ['AWD_QRNN', 'WideResNet', 'wrn_22']


def conv(n_in, n_out, stride=1): return nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    "Two convolutions after batch norm and ReLU, around which the input is added"
    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(n_in), conv(n_in, n_out, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(n_out), conv(n_out, n_out)
        same = n_in == n_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x):
        active = torch.relu(self.norm1(x))
        y = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Sequential):
    "A wide ResNet (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146, table 1)"
    def __init__(self, n_out, depth=22, width=6):
        n_blocks, n_in, layers = (depth-4)//6, 16, [conv(3, 16)]
        for group, n in enumerate((16*width, 32*width, 64*width)):
            for i in range(n_blocks):
                layers.append(Block(n_in, n, stride=2 if group and i == 0 else 1))
                n_in = n
        pool = [nn.BatchNorm2d(n_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, *pool, nn.Linear(n_in, n_out))


def wrn_22(n_out): return WideResNet(n_out)


class QRNNLayer(nn.Module):
    """A quasi-recurrent layer: gates from a convolution over time, then a mean with forgetting
    (Bradbury et al. 2017, https://arxiv.org/abs/1611.01576, eq. 2 to 5, fo-pooling).

    Called as `nn.LSTM(batch_first=True)` is, with a hidden state of shape (1, batch, `n_out`)."""
    def __init__(self, n_in, n_out, window):
        super().__init__()
        self.window, self.gates = window, nn.Linear(window*n_in, 3*n_out)

    def forward(self, x, hidden):
        before = [nn.functional.pad(x, (0, 0, i, 0))[:, :x.shape[1]] for i in range(self.window)]
        z, forget, output = self.gates(torch.cat(before, 2)).chunk(3, 2)
        z, forget, output = z.tanh(), forget.sigmoid(), output.sigmoid()
        c, states = hidden[0], []
        for new, keep in zip(((1-forget)*z).unbind(1), forget.unbind(1)):
            c = keep*c + new
            states.append(c)
        return output*torch.stack(states, 1), c[None]


class AWD_QRNN(AWD_LSTM):
    """fastai's AWD-LSTM with quasi-recurrent layers. The first one sees the token before, too
    (Merity et al. 2018, https://arxiv.org/abs/1803.08240). The dropout of weights acts on the gates."""
    def _one_rnn(self, n_in, n_out, bidir, weight_p, layer):
        rnn = QRNNLayer(n_in, n_out, window=2 if layer == 0 else 1)
        rnn.gates = WeightDropout(rnn.gates, weight_p, 'weight')
        return rnn

    def _one_hidden(self, layer):
        n = self.n_hid if layer < self.n_layers-1 else self.emb_sz
        return next(self.parameters()).new_zeros(1, self.bs, n)

    def _change_one_hidden(self, layer, bs):
        h = self.hidden[layer]
        if bs <= h.shape[1]: return h[:, :bs].contiguous()
        return torch.cat([h, h.new_zeros(1, bs-h.shape[1], h.shape[2])], 1)

    def reset(self):
        for rnn in self.rnns: rnn.gates.reset()
        self.hidden = [self._one_hidden(i) for i in range(self.n_layers)]
