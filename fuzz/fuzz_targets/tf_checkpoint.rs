//! TensorFlow checkpoints: tables, blocks compressed with snappy, both versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mobilenet_formats::tensorflow::{read_checkpoint_v1, read_checkpoint_v2};
use mobilenet_formats::{Overrides, assemble};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(content) = read_checkpoint_v1(bytes) {
        let _ = assemble(content, &Overrides::default());
    }
    if let Ok(content) = read_checkpoint_v2(bytes, &mut |_, _| Ok(vec![0; 4096])) {
        let _ = assemble(content, &Overrides::default());
    }
});
