//! Exporters: cartridges back into model files and folders.
