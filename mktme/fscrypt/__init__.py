"""fscrypt: Linux file-based encryption, its keys and policies."""
