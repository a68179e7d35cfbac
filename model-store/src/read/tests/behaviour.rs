//! What the engine does about slowness, throttling, missing digests and many small files.
