"""All structures of the Fisher matrix on small networks: steps and seconds to Adam's last loss."""
