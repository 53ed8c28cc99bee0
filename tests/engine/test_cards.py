"""GPUs by the names of drivers, vendors and clouds."""

import pytest

from gearshift.engine.cards import card_of, find_card, known_cards, similar_cards
from gearshift.gpu import GPU


@pytest.mark.parametrize(
    ("name", "kind", "usable"),
    [
        ("NVIDIA GH200 480GB", "GH200", 94.5),  # the other memory is the processor's
        ("NVIDIA GH200 144G HBM3e", "GH200", 139.8),
        ("a2-highgpu-1g", "A100", 39.5), ("a2-ultragpu-8g", "A100", 79.25),
        ("a3-highgpu-8g", "H100", 79.18), ("a3-ultragpu-8g", "H200", 139.8),
        ("g2-standard-4", "L4", 22.03), ("p3.2xlarge", "V100", 15.77),
        ("p4d.24xlarge", "A100", 39.5), ("p4de.24xlarge", "A100", 79.25),
        ("p5.48xlarge", "H100", 79.18), ("p5e.48xlarge", "H200", 139.8),
        ("g4dn.xlarge", "T4", 14.7), ("g5.xlarge", "A10G", 22.06), ("g6.xlarge", "L4", 22.03),
        ("g6e.xlarge", "L40S", 44.31), ("g5g.xlarge", "T4G", 14.7),
        ("Standard_NC24ads_A100_v4", "A100", 79.25), ("Standard_ND96asr_v4", "A100", 39.5),
        ("Standard_NC40ads_H100_v5", "H100 NVL", 93.1), ("Standard_NC4as_T4_v3", "T4", 14.7),
        ("nvidia-tesla-a100", "A100", 39.5), ("gpu_1x_a100_sxm4", "A100", 39.5),
        ("A100 MIG 1g.10gb", "A100", 9.84), ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100", 39.36),
        ("GRID A100D-40C", "A100", 39.5), ("NVIDIA L40S-48C", "L40S", 44.31),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "4090 LAPTOP", 15.7),
        ("Laptop RTX 4090", "4090 LAPTOP", 15.7), ("RTX 4080 SUPER", "4080", 15.7),
        ("RTX4060Ti-16G", "4060 TI", 15.6), ("GeForce RTX 4070 Ti", "4070 TI", 11.6),
        ("NVIDIA GeForce RTX 3060 Ti", "3060 TI", 7.6), ("NVIDIA L20", "L20", 44.5),
        ("NVIDIA GeForce RTX 3050", "3050", 7.6), ("GeForce GTX 1080 Ti", "1080 TI", 10.9),
        ("RTX 2080 SUPER", "2080 SUPER", 7.6), ("RTX 2070", "2070", 7.6),
        ("NVIDIA RTX 4500 Ada Generation", "RTX 4500 ADA", 23.6),
        ("RTX 4000 SFF Ada", "RTX 4000 ADA", 19.6), ("AMD Instinct MI100", "MI100", 31.98),
        ("Radeon PRO W7900", "W7900", 47.98), ("RX 7900 XT", "7900 XT", 19.98),
        ("Radeon RX 7900 XTX", "7900 XTX", 23.98), ("8xH100", "H100", 79.18),
        ("DGX Spark", "GB10", 121.7), ("NVIDIA GB10", "GB10", 121.7),
        ("NVIDIA Jetson AGX Orin 64GB", "AGX ORIN", 61.3),
        ("NVIDIA A100-SXM4-80GB (81920 MiB)", "A100", 79.25),
        ("24GB-class GPU (23.65 GiB)", "24GB-class GPU (23.65 GiB)", 23.65),
        ("A100 40GB (39.39 GiB)", "A100", 39.39),
    ],
)  # fmt: skip
def test_names_mean_kinds_and_sizes(name, kind, usable):
    found = find_card(name)
    assert (found.name, found.usable_gib) == (kind, pytest.approx(usable, abs=0.01))


@pytest.mark.parametrize("kind", known_cards())
def test_every_kind_is_found_by_its_own_name(kind):
    assert find_card(kind).name == find_card(f"NVIDIA {kind}").name == kind


def test_a_size_alone_is_no_known_kind():
    assert find_card("81920MiB").usable_gib == pytest.approx(80, rel=0.02)
    assert not find_card("81920MiB").known


def test_what_is_assumed_is_said():
    assert find_card("V100").note == "the V100 is made with 16 or 32 GB: 32 GB is assumed"
    assert find_card("V100 16GB").note is None
    assert "RTX 5000 ADA" in similar_cards("RTX 5000 Adda")
    assert "H100" in similar_cards("banana")


def test_a_driver_knows_better_which_variant_it_is():
    here = GPU(0, "x", "NVIDIA GeForce RTX 3060", memory_total_bytes=8 << 30)
    assert card_of(here).usable_gib == pytest.approx(7.84)
