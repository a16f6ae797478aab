"""The functions behind `import levit_ablate as la`, which the command line calls too."""
