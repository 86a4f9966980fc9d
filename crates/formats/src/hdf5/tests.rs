use std::cell::Cell;

use proptest::prelude::*;

use super::writer::Group;
use super::*;

/// Visits everything that there is, as a reader of all of it would.
fn visit(object: &Object<'_, '_>, depth: usize, values: &Cell<usize>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(damaged("deep"));
    }
    if object.is_dataset() {
        let dataset = object.dataset()?;
        if let Ok(floats) = dataset.floats() {
            assert_eq!(floats.len(), dataset.shape.iter().product::<usize>());
            values.set(values.get() + floats.len());
        }
        return Ok(());
    }
    for name in ["layer_names", "weight_names", "model_config", "name"] {
        if let Ok(Some(attribute)) = object.attribute(name) {
            let _ = attribute.strings();
        }
    }
    for (_, member) in object.members()? {
        visit(&member, depth + 1, values)?;
    }
    Ok(())
}

/// Reads all of `bytes` and checks that no more was decoded than the bound allows.
fn visit_all(bytes: &[u8]) -> Result<usize> {
    let values = Cell::new(0);
    let result = File::open(bytes).and_then(|file| visit(&file.root()?, 0, &values));
    assert!(values.get() as u64 * 2 <= (bytes.len() as u64 * MAX_EXPANSION).max(1 << 16));
    result.map(|()| values.get())
}

fn sample() -> Vec<u8> {
    let mut root = Group::default();
    root.text("backend", "tensorflow");
    root.list("layer_names", vec!["a".into(), "much_longer".into()]);
    for name in ["a", "much_longer"] {
        let group = root.group(&format!("{name}/inner")).unwrap();
        group.dataset("kernel:0", &[2, 3], (0..6).map(|v| v as f32 - 2.5).collect()).unwrap();
    }
    root.dataset("empty", &[0, 4], Vec::new()).unwrap();
    root.dataset("scalar", &[], vec![7.25]).unwrap();
    to_bytes(&root).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample();
    let file = File::open(&bytes).unwrap();
    let root = file.root().unwrap();
    assert_eq!(root.attribute("backend").unwrap().unwrap().string().unwrap(), "tensorflow");
    let names = root.attribute("layer_names").unwrap().unwrap().strings().unwrap();
    assert_eq!(names, ["a", "much_longer"]);
    assert!(root.attribute("absent").unwrap().is_none());
    let inner = root.member("much_longer").unwrap().unwrap().member("inner").unwrap().unwrap();
    let dataset = inner.member("kernel:0").unwrap().unwrap().dataset().unwrap();
    assert_eq!(dataset.shape, [2, 3]);
    assert_eq!(dataset.floats().unwrap(), [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);
    let empty = root.member("empty").unwrap().unwrap().dataset().unwrap();
    assert_eq!((empty.shape.as_slice(), empty.floats().unwrap()), (&[0, 4][..], vec![]));
    assert_eq!(root.member("scalar").unwrap().unwrap().dataset().unwrap().floats().unwrap(), [7.25]);
    assert!(root.member("nothing").unwrap().is_none());
}

#[test]
fn more_members_than_one_table_holds_stay_in_order() {
    let mut root = Group::default();
    for number in 0..200 {
        root.dataset(&format!("{number:03}"), &[1], vec![number as f32]).unwrap();
    }
    let bytes = to_bytes(&root).unwrap();
    let file = File::open(&bytes).unwrap();
    let members = file.root().unwrap().members().unwrap();
    assert_eq!(members.len(), 200);
    for (number, (name, object)) in members.into_iter().enumerate() {
        assert_eq!(name, format!("{number:03}"));
        assert_eq!(object.dataset().unwrap().floats().unwrap(), [number as f32]);
    }
    for number in 200..257 {
        root.dataset(&number.to_string(), &[1], vec![0.0]).unwrap();
    }
    assert!(to_bytes(&root).unwrap_err().to_string().contains("257 members"));
}

#[test]
fn a_user_block_before_the_file_is_skipped() {
    let mut bytes = vec![0; 512];
    bytes.extend(sample());
    assert!(is_hdf5(&bytes));
    assert_eq!(visit_all(&bytes).unwrap(), 13);
}

#[test]
fn every_cut_is_an_error() {
    let bytes = sample();
    let last = bytes.len() - 8;
    for cut in (0..last).step_by(7) {
        assert!(visit_all(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_group_that_contains_itself_ends() {
    let mut root = Group::default();
    root.group("loop/inner").unwrap().dataset("x", &[1], vec![1.0]).unwrap();
    let mut bytes = to_bytes(&root).unwrap();
    // The root's header address is in its entry at byte 64; make the inner group's entry name it.
    let root_header: [u8; 8] = bytes[64..72].try_into().unwrap();
    let file = File::open(&bytes).unwrap();
    let inner = file.root().unwrap().member("loop").unwrap().unwrap().member("inner").unwrap().unwrap();
    let inner_header = inner.address.to_le_bytes();
    let at = bytes.windows(8).position(|window| window == inner_header).unwrap();
    bytes[at..at + 8].copy_from_slice(&root_header);
    assert!(visit_all(&bytes).unwrap_err().to_string().contains("deep"));
}

#[test]
fn changed_bytes_never_panic() {
    let bytes = sample();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff, bytes[at] ^ 0x10] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = visit_all(&changed);
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_behind_a_signature_never_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend(&tail);
        let _ = visit_all(&bytes);
        let _ = visit_all(&tail);
    }
}
