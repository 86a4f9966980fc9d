//! CRC-32C (Castagnoli), masked as LevelDB's tables and TensorFlow's checkpoints store it.

/// The table for one byte (polynomial 0x1EDC6F41, bits reversed), and for it followed by 1 to 3 zero
/// bytes.
const TABLES: [[u32; 256]; 4] = tables();

const fn tables() -> [[u32; 256]; 4] {
    let mut tables = [[0_u32; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0x82F6_3B78 } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 4 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before >> 8) ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// The masked checksum of parts that follow each other.
pub(super) fn masked(parts: &[&[u8]]) -> u32 {
    let mut crc = !0_u32;
    for part in parts {
        let (words, rest) = part.as_chunks::<4>();
        for &word in words {
            let [a, b, c, d] = (crc ^ u32::from_le_bytes(word)).to_le_bytes().map(usize::from);
            crc = TABLES[3][a] ^ TABLES[2][b] ^ TABLES[1][c] ^ TABLES[0][d];
        }
        for &byte in rest {
            crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> u32 {
        masked(&[bytes]).wrapping_sub(0xA282_EAD8).rotate_left(15)
    }

    #[test]
    fn known_checksums() {
        // The check value of the CRC catalogue, and RFC 3720, B.4.
        assert_eq!(plain(b"123456789"), 0xE306_9283);
        assert_eq!(plain(&[0; 32]), 0x8A91_36AA);
        assert_eq!(plain(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(masked(&[b"1234", b"56789"]), masked(&[b"123456789"]));
        assert_eq!(masked(&[b"123", b"456789"]), masked(&[b"123456789"]));
    }
}
