//! The networks: CLIP text encoders, the U-Net, the autoencoders.
