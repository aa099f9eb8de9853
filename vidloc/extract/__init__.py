"""The heavy stage: decoding and the encoders that turn videos into rows; one file per encoder family."""
