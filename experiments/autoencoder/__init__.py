"""A deep autoencoder, trained Hessian-free and by Adam: steps and seconds to a training loss."""
