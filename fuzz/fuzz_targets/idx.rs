//! IDX files, plain and gzip-compressed. The first two bytes tell where the labels begin.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mobilenet_train::data::{Dataset, from_idx_bytes};

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let at = usize::from(u16::from_le_bytes(*length)).min(rest.len());
    let (images, labels) = rest.split_at(at);
    if let Ok(data) = from_idx_bytes(images.to_vec(), labels.to_vec()) {
        for index in 0..data.len() {
            assert!(data.label(index) < data.classes().len());
        }
    }
});
