"""The names that the command line checks before it imports torch, and what it lists without torch.

Written by `make docs` from METHODS and FORGERS; do not edit by hand.
"""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """What a method is, and the names of its profiles and settings, with spaces between them."""

    title: str
    paper: str
    profiles: str
    settings: str


METHODS: dict[str, Known] = {
    "auto": Known(
        (
            "(default) fits statistics of natural-image features in seconds, then trains the guided "
            "segmenter, which counts only where it proves better"
        ),
        "ours, based on the idea of SGSF, arXiv 2209.12440, guided by closed-form statistics",
        "cpu",
        (
            "batch forge_share epochs precision normalised raw filters side cell block light folds "
            "backbone numbers memory choices width head_start use seen learning_rate weight_decay focal"
            " proofs top"
        ),
    ),
    "guided": Known(
        ("a segmenter trained on synthetic defects and guided by statistics of good pictures; both scores are added"),
        "ours, based on the idea of SGSF, arXiv 2209.12440, guided by closed-form statistics",
        "cpu",
        (
            "batch forge_share epochs precision normalised raw filters side cell block light folds "
            "backbone numbers memory choices width head_start use seen learning_rate weight_decay focal"
            " proofs top"
        ),
    ),
    "patchstats": Known(
        ("statistics of the good pictures alone: Gaussians at every position over learned filters, fitted in seconds"),
        ("after PaDiM, Defard et al., ICPR 2021, arXiv 2011.08785, with PCA filters in place of a pretrained network"),
        "cpu",
        "batch forge_share epochs precision normalised raw filters side cell block light top",
    ),
    "anoseg": Known(
        "segmentation with an adversary and coordinates, then a detector that reuses the map",
        ("Song et al., arXiv 2110.03396, from a transcript (see docs/methods/anoseg.md); `cpu` has narrower layers"),
        "cpu paper",
        (
            "batch forge_share epochs precision backbone encoder_rate encoder_width decoder_width "
            "critic_width picture_stride map_stride skips coordinates critic_side critic_norm "
            "critic_rate forging masked segment balance rebuild adversarial score detector_share "
            "detector_adversarial detector_features detector_rebuild class_head alpha beta "
            "learning_rate schedule check_every patience evidence smooth top mark_rate"
        ),
    ),
    "cutpaste": Known(
        ("learns features that separate pasted pieces from good pictures, then the density of good ones"),
        "Li et al., CVPR 2021, arXiv 2104.04015; `cpu` starts from EfficientNet-Lite0",
        "cpu paper",
        (
            "batch forge_share epochs precision backbone tuning head_share tune_rate proofs variant "
            "hidden task shift jitter density unit localise stages crop crops patches window step sigma"
            " dims keep surprise score learning_rate weight_decay crop_share"
        ),
    ),
    "cutswap": Known(
        ("learns features that separate swapped salient patches from good pictures, then the density of good ones"),
        ("Qin et al., arXiv 2311.18332, only the abstract was available; the rest is our design, based on CutPaste"),
        "cpu paper",
        (
            "batch forge_share epochs precision backbone tuning head_share tune_rate proofs variant "
            "hidden saliency levels reading clusters clustering pick exchange area warm_share shift "
            "jitter density unit stages step sigma dims keep surprise score learning_rate weight_decay"
        ),
    ),
    "draem": Known(
        "reconstruction and segmentation, trained on synthetic defects in the shape of Perlin noise",
        ("Zavrtanik et al., ICCV 2021, arXiv 2108.07610; `cpu` is a reimplementation at half resolution"),
        "cpu paper",
        (
            "batch forge_share epochs precision reconstruct_width segment_width stride learning_rate "
            "weight_decay schedule ssim_stride focal_gamma prior evidence smooth"
        ),
    ),
    "isstad": Known(
        "a masked autoencoder that learns to repair synthetic defects and to locate them",
        ("Jin et al., arXiv 2303.17354; `cpu` is a small reimplementation, without the bugs of the authors' code"),
        "cpu paper",
        (
            "batch forge_share epochs precision backbone patch stem width depth heads decoder_width "
            "decoder_depth decoder_heads masked_depth grid masked_share masked hidden crop flip freeze "
            "target supervise corruption masked_learning_rate learning_rate weight_decay warm_up "
            "good_weight ssim_stride combine blur top carry"
        ),
    ),
    "padim": Known(
        "one Gaussian for each position on the part; features of a pretrained network, no training",
        "Defard et al., ICPR 2021, arXiv 2011.08785; `cpu` has a smaller trunk and a coarser grid",
        "cpu paper",
        ("batch forge_share epochs precision backbone stages grid sigma learning_rate shift jitter numbers shrink"),
    ),
    "patchcore": Known(
        "distance to a memory of good patches; features of a pretrained network, no training",
        "Roth et al., CVPR 2022, arXiv 2106.08265; `cpu` has a smaller trunk and memory",
        "cpu paper",
        (
            "batch forge_share epochs precision backbone stages grid sigma learning_rate shift jitter "
            "standardise share least most store sketch reweight top"
        ),
    ),
    "sgsf": Known(
        ("segmentation guided by a similar good picture, trained on synthetic defects in the salient region"),
        ("after Xing et al., arXiv 2209.12440, and IEEE TCSVT 34(6), 2024; reconstructed from a reader's notes"),
        "cpu paper",
        (
            "batch forge_share epochs precision backbone guidance contrast references show residual "
            "detach masks rule spread opacity guide_width segment_width stride learning_rate "
            "weight_decay schedule ssim_stride focal_gamma prior evidence smooth"
        ),
    ),
}

FORGERS: dict[str, str] = {
    "perlin": (
        "DRAEM's forgery (Zavrtanik, Kristan, Skocaj, ICCV 2021, section 3.3): a texture shows through thresholded noise."
    ),
    "saliency_perlin": (
        "SGSF's saliency augmentation (Xing et al., arXiv 2209.12440; its formulas were not available, so all is assumed)."
    ),
    "hard_augment": (
        "AnoSeg (Song et al., arXiv 2110.03396, figure 3): a patch of a strongly altered copy is pasted on the original."
    ),
    "pixel_corrupt": (
        "ISSTAD (Jin, Guo, Zhu, arXiv 2303.17354) as in its released code: an altered copy of the "
        "picture shows through shapes."
    ),
    "cutswap": (
        "CutSwap (Qin, Gu, Yu, Zhang, arXiv 2311.18332): two patches around pixels of the most salient cluster are swapped."
    ),
    "random_swap": ("The control of `cutswap`: two patches are swapped at uniformly drawn places, without saliency."),
    "cutpaste": (
        "CutPaste (Li, Sohn, Yoon, Pfister, CVPR 2021, appendix A.2): a patch or a scar of the picture is pasted elsewhere."
    ),
    "nsa": (
        "NSA (Schlueter, Liu, Hou, Kainz, ECCV 2022): patches of another good picture, blended in seamlessly (Perez 2003)."
    ),
    "scratch": (
        "A thin, curved, tapered line, as left by a sharp corner: a tone change along a groove, one flank of which is lit."
    ),
    "crack": "A branching random walk, thin and jagged, by default darker than its surroundings.",
    "stain": (
        "A smooth change of tone with an irregular outline: oil, water, discolouration. The surface's texture shows through."
    ),
    "dent": ("A dent's shading: a height field lit from one side is lighter on one flank and darker on the other."),
    "blob": ("Small opaque particles that lie on the part: dust, swarf, a drop of paint. They hide what is beneath."),
    "missing": "Missing material: an irregular piece is filled from its surroundings.",
    "misplaced": (
        "A piece of the part lies in the wrong place: it is moved by a fraction of its size, and its old place filled."
    ),
    "blur": "A patch out of focus, or smeared in one direction.",
    "noise": "A patch of noise: a rough, porous or sand-blasted spot.",
    "transplant": (
        "Regions of real defects are cut out, given a new pose and blended into the good picture (cloned as in Perez 2003)."
    ),
    "mix": "One of several forgers per picture, drawn by weight.",
    "pipe": (
        "Several forgers one after another on the same picture; the mask is where the last picture differs from the first."
    ),
}
