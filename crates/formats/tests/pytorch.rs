//! PyTorch's files: what torch, timm and a training script wrote (interop/make_torch_goldens.py),
//! files that mean harm, and damaged ones.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use mobilenet_formats::{Content, Error, StateDict, pytorch};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

fn parse(bytes: &[u8]) -> Result<StateDict, Error> {
    pytorch::read(bytes).map(|content| match content {
        Content::StateDict(state_dict) => state_dict,
        Content::Chain(_) => panic!("PyTorch's files are state_dicts"),
    })
}

fn refusal(bytes: &[u8]) -> String {
    match parse(bytes) {
        Err(error @ Error::Refused { .. }) => error.to_string(),
        other => panic!("expected a refusal, found {:?}", other.map(|s| s.tensors.len())),
    }
}

fn damage(bytes: &[u8]) -> String {
    match parse(bytes) {
        Err(error @ Error::Damaged { .. }) => error.to_string(),
        other => panic!("expected damage, found {:?}", other.map(|s| s.tensors.len())),
    }
}

/// A zip archive as torch writes it, of these entries.
fn archive(entries: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(format!("a/{name}"), options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)
}

/// A pickle of `{"w": tensor}` with these numbers in text form: length of the storage, offset,
/// shape, strides.
fn one_tensor(length: &str, offset: &str, shape: &[&str], strides: &[&str]) -> Vec<u8> {
    let mut p = b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    p.extend(b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    p.extend(format!("I{length}\ntQI{offset}\n(").bytes());
    shape.iter().for_each(|n| p.extend(format!("I{n}\n").bytes()));
    p.extend(b"t(");
    strides.iter().for_each(|n| p.extend(format!("I{n}\n").bytes()));
    p.extend(b"t\x89ccollections\nOrderedDict\n)RtRu.");
    p
}

fn one_tensor_file(length: &str, offset: &str, shape: &[&str], strides: &[&str]) -> Vec<u8> {
    let numbers: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let pickle = one_tensor(length, offset, shape, strides);
    archive(&[("data.pkl", &pickle), ("byteorder", b"little"), ("data/0", &numbers)], stored())
}

#[test]
fn the_reference_network_is_read_with_every_tensor() {
    let state = parse(&bytes("reference.pth")).unwrap();
    // 27 convolutions with four BN vectors each, and the classifier.
    assert_eq!(state.tensors.len(), 27 * 5 + 2);
    assert_eq!(state.tensors["model.0.0.weight"].shape(), [4, 3, 3, 3]);
    assert_eq!(state.tensors["model.13.3.weight"].shape(), [128, 128, 1, 1]);
    assert_eq!(state.tensors["fc.bias"].shape(), [10]);
    assert!(state.tensors["model.5.1.running_var"].data().iter().all(|v| *v > 0.0));
    assert!(state.hints.notes.is_empty(), "{:?}", state.hints.notes);
}

#[test]
fn half_precision_is_read_to_the_bit() {
    let file = bytes("timm.safetensors");
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    let state = parse(&bytes("timm.pth")).unwrap();
    assert_eq!(state.tensors.len(), 27 * 5 + 2);
    for (name, tensor) in &state.tensors {
        let view = expected.tensor(name).unwrap();
        assert_eq!(view.dtype(), safetensors::Dtype::F16);
        let values = view.data().chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
        assert_eq!(tensor.shape(), view.shape(), "{name}");
        assert!(tensor.data().iter().copied().eq(values), "{name}");
    }
}

#[test]
fn the_training_repositorys_checkpoint_is_unwrapped() {
    let state = parse(&bytes("training_bf16.pth.tar")).unwrap();
    assert_eq!(state.tensors.len(), 137);
    assert!(state.tensors.contains_key("model.13.4.running_mean"));
    let notes = state.hints.notes.join("; ");
    assert!(
        notes.contains("architecture \"mobilenet\", epoch 87, best top-1 68.848"),
        "a NumPy number among them: {notes}"
    );
    assert!(notes.contains("prefix \"module.\""), "{notes}");
}

#[test]
fn moving_averages_and_strided_views_are_read() {
    let state = parse(&bytes("views_f64.pt")).unwrap();
    assert_eq!(state.tensors.len(), 137);
    assert!(state.hints.notes[0].contains("moving averages (\"state_dict_ema\""), "{:?}", state.hints.notes);
    // The other dictionary's are zeros.
    assert!(state.tensors["fc.weight"].data().iter().any(|v| *v != 0.0));
}

#[test]
fn strides_and_offsets_are_followed() {
    let read = |offset, shape: &[&str], strides: &[&str]| {
        parse(&one_tensor_file("6", offset, shape, strides)).unwrap().tensors["w"].clone()
    };
    assert_eq!(read("0", &["2", "3"], &["3", "1"]).data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read("0", &["3", "2"], &["1", "3"]).data(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(read("1", &["2"], &["4"]).data(), [1.0, 5.0]);
    assert_eq!(read("5", &["1"], &["18446744073709551615"]).data(), [5.0]);
    assert_eq!(read("3", &[], &[]).data(), [3.0]);
    assert_eq!(read("0", &["0"], &["1"]).data(), [0.0; 0]);
}

#[test]
fn views_beyond_their_storage_are_refused() {
    let cases: [(&str, &str, &[&str], &[&str]); 9] = [
        ("6", "0", &["7"], &["1"]),
        ("6", "6", &["1"], &["1"]),
        ("6", "-1", &["1"], &["1"]),
        ("6", "0", &["2"], &["6"]),
        ("6", "0", &["1000000"], &["0"]),
        ("6", "0", &["4294967296", "4294967296"], &["0", "0"]),
        ("6", "0", &["2"], &["18446744073709551615"]),
        ("6", "0", &["4294967296", "4294967296", "0"], &["1", "1", "1"]),
        ("6", "18446744073709551615", &["2"], &["1"]),
    ];
    for (length, offset, shape, strides) in cases {
        let error = damage(&one_tensor_file(length, offset, shape, strides));
        assert!(error.contains("tensor"), "{error}");
    }
    // The pickle says more than the archive has.
    for length in ["7", "4611686018427387904", "18446744073709551615"] {
        let error = damage(&one_tensor_file(length, "0", &["2"], &["1"]));
        assert!(error.contains("storage \"0\""), "{error}");
    }
}

#[test]
fn a_pickle_that_wants_a_function_called_is_refused_by_its_name() {
    let files =
        ["harm.pth", "harm_legacy.pth", "harm_protocol_0.pkl", "harm_protocol_2.pkl", "harm_protocol_4.pkl"];
    for name in files {
        let error = refusal(&bytes(name));
        assert!(error.contains("asks to call posix.system"), "{name}: {error}");
        assert!(pytorch::recognises(&bytes(name)), "{name}");
    }
    let ways: [(&[u8], &str); 5] = [
        (b"(S'id'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'id'\no.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93)R.", "builtins.getattr"),
        (b"ctorch.hub\nload\n)R.", "torch.hub.load"),
    ];
    for (pickle, name) in ways {
        let error = refusal(pickle);
        assert!(error.contains(name), "{error}");
        let error = refusal(&archive(&[("data.pkl", pickle)], stored()));
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_whole_network_is_refused_with_what_to_do() {
    for name in ["whole_network.pth", "whole_network_legacy.pth"] {
        let error = refusal(&bytes(name));
        assert!(error.contains("torch_models.Reference"), "{error}");
        assert!(error.contains(".state_dict()"), "{error}");
    }
    let error = refusal(&bytes("torchscript.pt"));
    assert!(error.contains("TorchScript"), "{error}");
}

#[test]
fn what_holds_no_weights_says_what_it_holds() {
    let error = refusal(&archive(&[("data.pkl", b"\x80\x02}(X\x05\x00\x00\x00epochK\x01u.")], stored()));
    assert!(error.contains("epoch"), "{error}");
    assert!(refusal(&archive(&[("data.pkl", b"\x80\x02K\x01.")], stored())).contains("no dictionary"));
    assert!(damage(&archive(&[("other", b"")], stored())).contains("data.pkl"));
    assert!(damage(b"").contains("empty"));
    assert!(damage(b"\x80\x02K\x01.").contains("torch.save did not write"));
}

#[test]
fn deflated_archives_are_read_and_bombs_are_not() {
    let deflated = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let numbers = [0u8; 24];
    let pickle = one_tensor("6", "0", &["6"], &["1"]);
    let file = archive(&[("data.pkl", &pickle), ("data/0", &numbers)], deflated);
    assert_eq!(parse(&file).unwrap().tensors["w"].data(), [0.0; 6]);
    let zeros = vec![0; 4 << 20];
    let pickle = one_tensor("1048576", "0", &["1048576"], &["1"]);
    let file = archive(&[("data.pkl", &pickle), ("data/0", &zeros)], deflated);
    assert!(refusal(&file).contains("zip bomb"));
}

#[test]
fn big_endian_numbers_are_turned() {
    let numbers: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_be_bytes()).collect();
    let pickle = one_tensor("6", "0", &["6"], &["1"]);
    let file = archive(&[("data.pkl", &pickle), ("byteorder", b"big"), ("data/0", &numbers)], stored());
    assert_eq!(parse(&file).unwrap().tensors["w"].data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn one_storage_many_times_does_not_multiply() {
    // Two thousand tensors, each all of the one storage.
    let single = one_tensor("1000", "0", &["1000"], &["1"]);
    let body = &single[4..single.len() - 2];
    let mut pickle = b"\x80\x02}(".to_vec();
    for index in 0..2000 {
        pickle.extend(b"X\x04\x00\x00\x00");
        pickle.extend(format!("{index:04}").bytes());
        pickle.extend(&body[6..]);
    }
    pickle.extend(b"u.");
    let file = archive(&[("data.pkl", &pickle), ("data/0", &[0; 4000])], stored());
    assert!(damage(&file).contains("share"));
}

#[test]
fn what_is_written_is_read_back() {
    let values: Vec<f32> = (0..24).map(|i| i as f32 / 7.0).collect();
    let tensors = vec![
        ("model.0.0.weight".to_owned(), vec![2, 3, 2, 2], &values[..]),
        ("fc.bias".to_owned(), vec![5], &values[..5]),
        ("scalar".to_owned(), vec![], &values[3..4]),
    ];
    let file = pytorch::write(&tensors).unwrap();
    assert!(pytorch::recognises(&file));
    let state = parse(&file).unwrap();
    let expected: BTreeMap<_, _> = tensors
        .iter()
        .map(|(name, shape, data)| (name.clone(), mobilenet::Tensor::new(shape, data.to_vec()).unwrap()))
        .collect();
    assert_eq!(state.tensors, expected);
    // Numbers are where they can be memory-mapped.
    let mut zip = zip::ZipArchive::new(Cursor::new(&file)).unwrap();
    for index in 0..3 {
        let entry = zip.by_name(&format!("weights/data/{index}")).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0);
    }
    assert!(pytorch::write(&[("a".into(), vec![2], &values[..3])]).is_err());
    assert!(
        pytorch::write(&[("a".into(), vec![], &values[..1]), ("a".into(), vec![], &values[..1])]).is_err()
    );
}

#[test]
fn one_dictionary_many_times_does_not_multiply() {
    // Fifty thousand entries, named from fifty thousand others: read in a moment or never.
    let mut pickle = b"\x80\x02}(K\x00}q\x00(".to_vec();
    for index in 0..50_000u32 {
        pickle.push(b'J');
        pickle.extend(index.to_le_bytes());
        pickle.push(b'N');
    }
    pickle.push(b'u');
    for index in 1..50_000u32 {
        pickle.push(b'J');
        pickle.extend(index.to_le_bytes());
        pickle.extend(b"h\x00");
    }
    pickle.extend(b"u.");
    let start = std::time::Instant::now();
    assert!(refusal(&archive(&[("data.pkl", &pickle)], stored())).contains("no entries"));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn ordered_dictionaries_of_python_2_are_read() {
    // OrderedDict([["w", tensor]]), in place of {"w": tensor}.
    let modern = one_tensor("6", "0", &["6"], &["1"]);
    let pair = &modern[4..modern.len() - 2];
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00(](](".to_vec();
    pickle.extend(pair);
    pickle.extend(b"eetR.");
    let numbers: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let file = archive(&[("data.pkl", &pickle), ("data/0", &numbers)], stored());
    assert_eq!(parse(&file).unwrap().tensors["w"].data(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn networks_among_other_things_are_refused_only_where_there_is_nothing_else() {
    // {"model": Network(), "ema_weights": {"w": tensor}}: of a script's own name, but clear.
    let tensor = one_tensor("6", "0", &["6"], &["1"]);
    let network = b"X\x05\x00\x00\x00modelcmy_project\nNetwork\n)\x81}b";
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(network);
    pickle.extend(b"X\x03\x00\x00\x00own");
    pickle.extend(&tensor[2..tensor.len() - 1]);
    pickle.extend(b"u.");
    let file = archive(&[("data.pkl", &pickle), ("data/0", &[0; 24])], stored());
    assert_eq!(parse(&file).unwrap().tensors["w"].shape(), [6]);
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(network);
    pickle.extend(b"u.");
    let error = refusal(&archive(&[("data.pkl", &pickle)], stored()));
    assert!(error.contains("whole object of class my_project.Network"), "{error}");
}

/// A small deterministic generator (xorshift).
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 16) as usize
}

#[test]
fn damaged_files_are_errors_not_panics() {
    let files = ["harm_legacy.pth", "whole_network.pth", "legacy_f16.pth", "training_bf16.pth.tar"];
    for name in files {
        let whole = bytes(name);
        for part in 0..64 {
            assert!(parse(&whole[..whole.len() * part / 64]).is_err(), "{name} cut at {part}/64");
        }
    }
    let small = one_tensor_file("6", "1", &["2"], &["3"]);
    let legacy = bytes("legacy_f16.pth");
    let mut state = 88_172_645_463_325_252;
    for (file, turns, region) in [(&small, 4000, small.len()), (&legacy, 200, legacy.len() / 8)] {
        for _ in 0..turns {
            let mut bytes = file.clone();
            for _ in 0..=random(&mut state) % 3 {
                let at = random(&mut state) % region;
                bytes[at] = random(&mut state) as u8;
            }
            let _ = parse(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_pickles_are_errors_not_panics(pickle in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&pickle);
        let _ = parse(&archive(&[("data.pkl", &pickle), ("data/0", &[0; 24])], stored()));
    }

    #[test]
    fn changed_files_are_errors_not_panics(
        name in prop_oneof![Just("harm.pth"), Just("harm_legacy.pth"), Just("")],
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let mut file = match name {
            "" => one_tensor_file("6", "1", &["2"], &["3"]),
            name => bytes(name),
        };
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        // One in two is cut as well.
        let end = end.index(2 * file.len());
        let _ = parse(&file[..end.min(file.len())]);
    }

    /// Operations that do something, in any order.
    #[test]
    fn arbitrary_programs_are_errors_not_panics(
        program in proptest::collection::vec(
            prop_oneof![
                Just(&b"("[..]), Just(&b")"[..]), Just(&b"]"[..]), Just(&b"}"[..]), Just(&b"N"[..]),
                Just(&b"K\x02"[..]), Just(&b"J\xff\xff\xff\xff"[..]), Just(&b"X\x01\x00\x00\x000"[..]),
                Just(&b"X\x07\x00\x00\x00storage"[..]), Just(&b"ctorch\nFloatStorage\n"[..]),
                Just(&b"ctorch._utils\n_rebuild_tensor_v2\n"[..]), Just(&b"ccollections\nOrderedDict\n"[..]),
                Just(&b"ctorch\nSize\n"[..]), Just(&b"q\x01"[..]), Just(&b"h\x01"[..]), Just(&b"\x94"[..]),
                Just(&b"R"[..]), Just(&b"Q"[..]), Just(&b"t"[..]), Just(&b"a"[..]), Just(&b"e"[..]),
                Just(&b"u"[..]), Just(&b"s"[..]), Just(&b"b"[..]), Just(&b"2"[..]), Just(&b"0"[..]),
                Just(&b"1"[..]), Just(&b"o"[..]), Just(&b"\x81"[..]), Just(&b"\x85"[..]), Just(&b"\x86"[..]),
                Just(&b"\x87"[..]), Just(&b"\x93"[..]),
            ],
            0..60,
        )
    ) {
        let mut pickle = program.concat();
        pickle.push(b'.');
        let _ = parse(&archive(&[("data.pkl", &pickle), ("data/0", &[0; 24])], stored()));
    }
}
