//! TFLite: flatbuffers and the walk through the graph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mobilenet_formats::{Overrides, assemble};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(content) = mobilenet_formats::tflite::read(bytes) {
        let _ = assemble(content, &Overrides::default());
    }
});
