"""levit-ablate: the ablation table of LeViT (Graham et al., ICCV 2021) as software."""
