"""What the networks see: the source, the faces made from it, and their latents, as files with a contract each."""
