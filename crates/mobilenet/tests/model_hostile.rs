//! Files that somebody damaged or made on purpose: an error or a sound model, never a panic.

use mobilenet::{Architecture, Model};
use proptest::prelude::*;

fn valid() -> Vec<u8> {
    let architecture =
        Architecture { width_multiplier: 0.01, resolution: 32, classes: 2, ..Architecture::default() };
    Model::random(architecture, vec!["a".into(), "b".into()], 5).unwrap().to_bytes().unwrap()
}

fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Loads and, if that works, holds the result to what every model must be.
fn survives(bytes: &[u8]) {
    match Model::from_bytes(bytes, "hostile") {
        Ok(model) => {
            model.check().unwrap();
            model.architecture.layers().unwrap();
        }
        Err(error) => assert!(error.to_string().len() < 4000, "an error to read, not a dump"),
    }
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn sizes_beyond_the_file_are_refused_before_anything_is_allocated() {
    let huge = u64::MAX.to_string();
    for bytes in [
        u64::MAX.to_le_bytes().to_vec(),
        [&99_999_999_u64.to_le_bytes()[..], b"{"].concat(),
        file(r#"{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}"#, &[0; 4]),
        file(r#"{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#, &[0; 4]),
        file(&format!(r#"{{"w":{{"dtype":"F32","shape":[1],"data_offsets":[0,{huge}]}}}}"#), &[0; 4]),
        file(&format!(r#"{{"w":{{"dtype":"F32","shape":[{huge}],"data_offsets":[{huge},4]}}}}"#), &[0; 4]),
        file(r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, &[0; 4]),
        file(
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#,
            &[0; 6],
        ),
        file(r#"{"__metadata__":7}"#, &[]),
        file(&"[".repeat(100_000), &[]),
        file(&format!("{{\"a\":{}", "{\"a\":".repeat(100_000)), &[]),
        file("{}", &[]),
    ] {
        assert!(Model::from_bytes(&bytes, "hostile").is_err());
        survives(&bytes);
    }
}

#[test]
fn hostile_settings_in_sound_json_are_refused() {
    let bytes = valid();
    let header = std::str::from_utf8(&bytes[8..header_end(&bytes)]).unwrap();
    for (from, to) in [
        (r#"\"width_multiplier\":0.01"#, r#"\"width_multiplier\":1e308"#),
        (r#"\"width_multiplier\":0.01"#, r#"\"width_multiplier\":-0.0"#),
        (r#"\"resolution\":32"#, r#"\"resolution\":18446744073709551615"#),
        (r#"\"resolution\":32"#, r#"\"resolution\":-32"#),
        (r#"\"classes\":2"#, r#"\"classes\":18446744073709551615"#),
        (r#"\"classes\":2"#, r#"\"classes\":1000000"#),
        (r#"\"crop_fraction\":0.875"#, r#"\"crop_fraction\":1e-300"#),
        (r#"\"bn_epsilon\":"#, r#"\"bn_epsilon\":-"#),
        (r#"\"mean\":["#, r#"\"mean\":[0,0,"#),
        (r#"\"stem_stride\":2"#, r#"\"stem_stride\":0"#),
        (r#"\"output_stride\":32"#, r#"\"output_stride\":0"#),
    ] {
        let changed = header.replacen(from, to, 1);
        assert_ne!(changed, header, "{from}");
        let bytes = file(&changed, &bytes[header_end(&bytes)..]);
        assert!(Model::from_bytes(&bytes, "hostile").is_err(), "{to}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes);
    }

    #[test]
    fn any_header(header in "[{}\\[\\]\",:0-9a-zA-Z_ \\\\]{0,200}", data in prop::collection::vec(any::<u8>(), 0..40)) {
        survives(&file(&header, &data));
    }

    #[test]
    fn changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = valid();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survives(&bytes);
    }

    #[test]
    fn changed_header(changes in prop::collection::vec((any::<prop::sample::Index>(), "[0-9\\-.e\"{}\\[\\],]"), 1..6)) {
        let mut bytes = valid();
        let end = header_end(&bytes);
        for (at, value) in changes {
            bytes[8 + at.index(end - 8)] = value.as_bytes()[0];
        }
        survives(&bytes);
    }

    #[test]
    fn cut_repeated_and_spliced(at in any::<prop::sample::Index>(), to in any::<prop::sample::Index>()) {
        let bytes = valid();
        let (at, to) = (at.index(bytes.len()), to.index(bytes.len()));
        survives(&bytes[..at]);
        survives(&bytes[at..]);
        survives(&[&bytes[..at], &bytes[to..]].concat());
    }
}
