//! config.json and preprocessor_config.json of transformers and timm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mobilenet_formats::{Hints, hub_config};

fuzz_target!(|bytes: &[u8]| {
    let _ = hub_config::read(bytes, Some(bytes), &mut Hints::default());
});
