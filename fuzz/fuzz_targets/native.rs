//! This project's own model files and their metadata.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mobilenet::Model;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(model) = Model::from_bytes(bytes, "fuzz") {
        let again = Model::from_bytes(&model.to_bytes().unwrap(), "fuzz").unwrap();
        assert_eq!(again, model);
    }
});
