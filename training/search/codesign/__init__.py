"""Co-search of network and placement (sections III and IV of the MMMT paper): α and ω together."""
