//! Content-addressed store: blobs, history, refs, durable writes, importers and exporters
