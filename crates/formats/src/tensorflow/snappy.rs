//! Decompression of Snappy's raw format (`format_description.txt` of google/snappy), which
//! version 1 checkpoints use for the blocks of their table.

/// What `bytes` decompress to; an error says what is wrong.
///
/// The longest copy makes 64 bytes of 3, so a length that is more than 64 times the input's is a lie
/// and is refused before anything is allocated.
pub(super) fn decompress(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let cut = || "compressed data ends in the middle".to_owned();
    let mut at = 0;
    let mut length = 0_usize;
    for shift in (0..).step_by(7) {
        let byte = *bytes.get(at).ok_or_else(cut)?;
        at += 1;
        if shift > 28 {
            return Err("a compressed block's length does not end".into());
        }
        length |= usize::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    if length > bytes.len().saturating_mul(64) {
        return Err(format!("{} compressed bytes claim to hold {length}", bytes.len()));
    }
    let mut out: Vec<u8> = Vec::with_capacity(length);
    while let Some(&tag) = bytes.get(at) {
        at += 1;
        let little_endian = |at: usize, width: usize| {
            let bytes = bytes.get(at..at + width).ok_or_else(cut)?;
            Ok::<usize, String>(bytes.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
        };
        let high = usize::from(tag >> 2);
        let (count, distance) = match tag & 3 {
            0 => {
                let width = high.saturating_sub(59);
                let count = if width == 0 { high } else { little_endian(at, width)? } + 1;
                at += width;
                let literal = bytes.get(at..).and_then(|rest| rest.get(..count)).ok_or_else(cut)?;
                if out.len() + count > length {
                    return Err("more is compressed than was announced".into());
                }
                out.extend_from_slice(literal);
                at += count;
                continue;
            }
            1 => {
                let low = little_endian(at, 1)?;
                at += 1;
                ((high & 7) + 4, (high >> 3) << 8 | low)
            }
            kind => {
                let width = if kind == 2 { 2 } else { 4 };
                let distance = little_endian(at, width)?;
                at += width;
                (high + 1, distance)
            }
        };
        let Some(start) = out.len().checked_sub(distance).filter(|_| distance > 0) else {
            return Err(format!("a copy from {distance} bytes back, {} bytes in", out.len()));
        };
        if out.len() + count > length {
            return Err("more is compressed than was announced".into());
        }
        // A copy may read what it has just written.
        for from in start..start + count {
            out.push(out[from]);
        }
    }
    if out.len() == length { Ok(out) } else { Err(format!("{} bytes of {length} are there", out.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_and_copies_of_every_kind() {
        assert_eq!(decompress(&[3, 2 << 2, b'a', b'b', b'c']).unwrap(), b"abc");
        // "ab", then a copy of 8 from 2 back (one-byte distance).
        assert_eq!(decompress(&[10, 1 << 2, b'a', b'b', 4 << 2 | 1, 2]).unwrap(), b"ababababab");
        assert_eq!(decompress(&[6, 1 << 2, b'a', b'b', 3 << 2 | 2, 1, 0]).unwrap(), b"abbbbb");
        assert_eq!(decompress(&[6, 1 << 2, b'a', b'b', 3 << 2 | 3, 2, 0, 0, 0]).unwrap(), b"ababab");
        let mut long = vec![200, 1, 60 << 2, 199];
        long.extend([7; 200]);
        assert_eq!(decompress(&long).unwrap(), [7; 200]);
    }

    #[test]
    fn lies_are_refused() {
        for (bytes, problem) in [
            (&[255, 255, 255, 255, 15, 0][..], "claim to hold"),
            (&[255, 255, 255, 255, 255, 255], "does not end"),
            (&[4, 0 << 2, b'a', 4 << 2 | 1, 0], "0 bytes back"),
            (&[4, 0 << 2, b'a', 1, 9], "9 bytes back"),
            (&[2, 2 << 2, b'a', b'b', b'c'], "more is compressed"),
            (&[9, 2 << 2, b'a'], "ends in the middle"),
            (&[9, 0, b'a'], "1 bytes of 9"),
            (&[], "ends in the middle"),
        ] {
            let error = decompress(bytes).unwrap_err();
            assert!(error.contains(problem), "{bytes:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(out) = decompress(&bytes) {
                prop_assert!(out.len() <= 64 * bytes.len());
            }
        }
    }
}
