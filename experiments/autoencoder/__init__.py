"""A deep autoencoder, trained Hessian-free, by K-FAC and by rivals: seconds to a training loss."""
