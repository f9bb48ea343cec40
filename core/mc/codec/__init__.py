"""Words to coded bytes and back, exactly: symbols, scales, Huffman, ANS, dictionary, and the choice among them."""
