"""A deep autoencoder, Hessian-free and by Adam: steps and seconds to a training loss."""
