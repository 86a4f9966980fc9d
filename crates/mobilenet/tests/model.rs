//! The native model file: round trips, and every way in which a file can be wrong.

use std::path::Path;

use mobilenet::{Architecture, Error, Model, Preset, Tensor};

/// The smallest network there is: every layer has 8 or 10 channels.
fn tiny(labels: &[&str]) -> Model {
    let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
    let architecture = Architecture {
        width_multiplier: 0.01,
        resolution: 32,
        classes: labels.len(),
        ..Architecture::default()
    };
    Model::random(architecture, labels, 5).unwrap()
}

fn problem(bytes: &[u8]) -> String {
    Model::from_bytes(bytes, "some.safetensors").unwrap_err().to_string()
}

/// The model's file with its header changed by `change`.
fn with_header(model: &Model, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = model.to_bytes().unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes(), &header[..], &bytes[8 + length..]].concat()
}

#[test]
fn a_saved_model_comes_back_whole() {
    let mut model = tiny(&["Zebra crossing", "猫", "", "ärger", "cat"]);
    model.architecture.conventions = Preset::TfSlim.conventions();
    // One more output: the background class.
    let model = Model::random(model.architecture, model.labels, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a folder with spaces — и кириллица.safetensors");
    std::fs::write(&path, b"what was there before").unwrap();
    model.save(&path).unwrap();
    let loaded = Model::load(&path).unwrap();
    assert_eq!(loaded, model);
    assert_eq!(loaded.label(0), None);
    assert_eq!(loaded.label(2), Some("猫"));
    assert_eq!(loaded.label(6), None);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn one_model_has_one_sequence_of_bytes() {
    let model = tiny(&["a", "b"]);
    let bytes = model.to_bytes().unwrap();
    for _ in 0..4 {
        assert_eq!(model.to_bytes().unwrap(), bytes);
        assert_eq!(Model::from_bytes(&bytes, "m").unwrap().to_bytes().unwrap(), bytes);
    }
    // Tensors start at a multiple of 8 bytes, so that a map of the file can be read as f32.
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
}

#[test]
fn other_programs_can_read_it() {
    let model = tiny(&["a", "b"]);
    let bytes = model.to_bytes().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), model.weights.iter().count());
    let view = file.tensor("classifier.bias").unwrap();
    assert_eq!((view.shape(), view.data().len()), (&[2][..], 8));
}

#[test]
fn a_run_folder_stands_for_its_best_model() {
    let folder = tempfile::tempdir().unwrap();
    let message = Model::load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("a folder without best.safetensors; expected a model file"), "{message}");
    let model = tiny(&["a", "b"]);
    model.save(folder.path().join("best.safetensors")).unwrap();
    assert_eq!(Model::load(folder.path()).unwrap(), model);
}

#[test]
fn paths_that_are_no_file_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let message = Model::load(folder.path().join("none.safetensors")).unwrap_err().to_string();
    assert!(message.contains("none.safetensors: cannot read: No such file"), "{message}");
    let message = tiny(&["a"]).save(folder.path()).unwrap_err().to_string();
    assert!(message.contains("it is a folder; name a file"), "{message}");
    #[cfg(unix)]
    {
        let message = Model::load("/dev/null").unwrap_err().to_string();
        assert_eq!(message, "/dev/null: not a regular file; expected a model file");
    }
}

#[cfg(unix)]
#[test]
fn files_without_permission_say_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let model = tiny(&["a"]);
    model.save(&path).unwrap();
    let forbid = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    forbid(&path, 0o000);
    if std::fs::read(&path).is_ok() {
        return; // The super-user may do everything.
    }
    let message = Model::load(&path).unwrap_err().to_string();
    assert!(message.contains("cannot read: Permission denied"), "{message}");
    forbid(folder.path(), 0o555);
    let message = model.save(&path).unwrap_err().to_string();
    forbid(folder.path(), 0o755);
    assert!(message.contains("cannot create a file in: Permission denied"), "{message}");
}

#[test]
fn a_file_cut_short_names_the_tensor_that_it_lacks() {
    let model = tiny(&["a", "b"]);
    let bytes = model.to_bytes().unwrap();
    assert_eq!(problem(&[]), "some.safetensors: an empty file; its writing or copying failed");
    let message = problem(&bytes[..bytes.len() - 1]);
    assert!(
        message.contains("damaged or cut short") && message.contains("pointwise_9.weight: "),
        "{message}"
    );
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // The first tensor by name is the classifier's bias, of two values.
    let message = problem(&bytes[..header + 3]);
    assert!(message.contains("classifier.bias: 3 of its 8 bytes are there"), "{message}");
    let message = problem(&bytes[..header - 1]);
    assert!(message.contains("the header should be"), "{message}");
    let message = problem(&[&bytes[..], &[0; 4]].concat());
    assert!(message.contains("damaged or cut short"), "{message}");
}

#[test]
fn a_file_that_is_no_model_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Model::load(&path).unwrap_err().to_string()
    };
    assert!(load(b"PK\x03\x04 and so on").contains("looks like a PyTorch checkpoint"));
    assert!(load(b"\x89HDF\r\n\x1a\n and so on").contains("looks like an HDF5 file"));
    assert!(load(b"\xff\xd8\xff\xe0 and so on").contains("looks like a JPEG image"));
    let stranger = "not a model file; expected a safetensors file, as `mobilenet train` saves it";
    assert!(load(b"just some text that somebody wrote").ends_with(stranger));
    assert!(load(b"short").ends_with(stranger));
    assert!(load(&[0; 100_000]).ends_with(stranger));
}

#[test]
fn a_safetensors_file_of_another_project_is_told_from_ours() {
    let text = br#"{"blocks.0.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let bytes = [&(text.len() as u64).to_le_bytes(), &text[..], &[0; 4]].concat();
    let message = problem(&bytes);
    assert!(message.contains("not a model of this program: no `format` in its metadata"), "{message}");
    assert!(message.contains("first tensor `blocks.0.weight`"), "{message}");
    let message = problem(&with_header(&tiny(&["a"]), |h| h["__metadata__"]["format"] = "pt".into()));
    assert!(message.contains("format `pt` in its metadata"), "{message}");
}

#[test]
fn a_file_of_another_version_asks_for_another_program() {
    let message = problem(&with_header(&tiny(&["a"]), |h| h["__metadata__"]["version"] = "2".into()));
    assert!(message.contains("version 2 of the model format; this program reads version 1"), "{message}");
    let message = problem(&with_header(&tiny(&["a"]), |h| {
        let text = h["__metadata__"]["architecture"].as_str().unwrap();
        h["__metadata__"]["architecture"] = text.replace("{\"body\"", "{\"squeeze\":1,\"body\"").into();
    }));
    assert!(message.contains("`architecture` cannot be read (unknown field `squeeze`"), "{message}");
    assert!(message.contains("was it written by a newer program?"), "{message}");
    let message = problem(&with_header(&tiny(&["a"]), |h| {
        h["__metadata__"].as_object_mut().unwrap().remove("labels");
    }));
    assert!(message.contains("its metadata lack `labels`"), "{message}");
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let model = tiny(&["a", "b"]);
    let edit = |change: fn(&mut String)| {
        problem(&with_header(&model, |h| {
            let mut text = h["__metadata__"]["architecture"].as_str().unwrap().to_owned();
            change(&mut text);
            h["__metadata__"]["architecture"] = text.into();
        }))
    };
    let message = edit(|text| *text = text.replace("0.01", "0.5"));
    assert!(message.contains("conv_0.weight: expected [16, 3, 3, 3], found [8, 3, 3, 3]"), "{message}");
    assert!(message.contains("was this saved with another width multiplier"), "{message}");
    let message = edit(|text| *text = text.replace("\"classes\":2", "\"classes\":3"));
    assert!(message.contains("class names: expected 3, one for each class"), "{message}");
    let message = edit(|text| *text = text.replace("\"resolution\":32", "\"resolution\":0"));
    assert!(message.contains("resolution: found 0, expected 8 to 4096 pixels"), "{message}");

    let message = problem(&with_header(&model, |h| h["__metadata__"]["labels"] = "[\"a\"]".into()));
    assert!(message.contains("class names: expected 2"), "{message}");
    let message = problem(&with_header(&model, |h| {
        let tensor = h.as_object_mut().unwrap().remove("pointwise_7.weight").unwrap();
        h["pointwise_x.weight"] = tensor;
    }));
    assert!(message.contains("pointwise_7.weight: missing; expected shape [8, 8, 1, 1]"), "{message}");
    let message = problem(&with_header(&model, |h| h["pointwise_7.weight"]["dtype"] = "I32".into()));
    assert!(
        message.contains("pointwise_7.weight: expected values of type F32 or F16, found I32"),
        "{message}"
    );
}

#[test]
fn what_is_not_finite_is_neither_saved_nor_loaded() {
    let mut model = tiny(&["a", "b"]);
    let bytes = model.to_bytes().unwrap();
    let mut damaged = bytes.clone();
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let message = problem(&damaged);
    assert!(message.contains("pointwise_9.weight: value 63 is NaN"), "{message}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    model.save(&path).unwrap();
    model.weights.insert("classifier.bias", Tensor::new(&[2], vec![0.0, f32::INFINITY]).unwrap());
    let message = model.save(&path).unwrap_err().to_string();
    assert!(message.contains("classifier.bias: value 1 is inf"), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "the good model stays");
}

#[test]
fn a_model_takes_other_classes() {
    let model = tiny(&["a", "b"]);
    let labels: Vec<String> = ["x", "y", "z"].map(String::from).to_vec();
    let new = model.for_new_classes(labels.clone(), 9).unwrap();
    assert_eq!((new.architecture.classes, &new.labels), (3, &labels));
    for (name, tensor) in new.weights.iter() {
        let kept = model.weights.get(name) == Some(tensor);
        assert_eq!(kept, !name.starts_with("classifier."), "{name}");
    }
    assert_eq!(new, model.for_new_classes(labels, 9).unwrap());
    assert!(matches!(model.for_new_classes(vec![], 9), Err(Error::Architecture { what: "classes", .. })));

    let mut architecture = model.architecture.clone();
    architecture.conventions = Preset::Hf.conventions();
    let slim = Model::random(architecture, model.labels.clone(), 1).unwrap();
    assert_eq!(slim.architecture.outputs(), 3);
    assert_eq!(slim.for_new_classes(vec!["x".into()], 1).unwrap().architecture.outputs(), 1);
}

#[test]
fn classes_are_found_by_name() {
    let model = tiny(&["crane", "dog", "crane", "cat"]);
    let find = |names: &[&str]| model.class_indices(&names.iter().map(|&n| n.into()).collect::<Vec<_>>());
    assert_eq!(find(&["crane", "dog", "crane", "cat"]).unwrap(), [0, 1, 2, 3]);
    assert_eq!(find(&["cat", "dog"]).unwrap(), [3, 1]);
    let message = find(&["cat", "dig"]).unwrap_err().to_string();
    assert!(message.starts_with("class `dig` of the data: expected one of the model's 4"), "{message}");
    assert!(message.contains("did you mean `dog`?"), "{message}");
}

#[test]
fn a_model_of_another_architecture_lists_what_differs() {
    let model = tiny(&["a", "b"]);
    let path = Path::new("runs/1/last.safetensors");
    model.require(&model.architecture, path).unwrap();
    let wanted = Architecture { classes: 3, resolution: 64, ..model.architecture.clone() };
    assert_eq!(
        model.require(&wanted, path).unwrap_err().to_string(),
        "runs/1/last.safetensors: a model of another architecture: classes: found 2, expected 3; \
         resolution: found 32, expected 64"
    );
}

#[test]
fn labels_must_be_as_many_as_the_classes() {
    let architecture = Architecture { classes: 3, ..Architecture::default() };
    let message = Model::random(architecture, vec!["a".into()], 0).unwrap_err().to_string();
    assert_eq!(message, "class names: expected 3, one for each class of the architecture, found 1");
}
