//! Importers: model files and folders into a store.
