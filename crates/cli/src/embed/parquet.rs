//! Apache Parquet, as far as a table of paths and features needs it: a column `path` of UTF-8 and a
//! column `features` of lists of float, PLAIN, uncompressed, one page a column and row group.
//!
//! Format: <https://parquet.apache.org/docs/file-format/>; its structures are those of
//! `parquet.thrift`, in Thrift's compact protocol.

use std::io::{self, Write};

/// Bytes of features that a row group gathers before it is written.
const GROUP_BYTES: usize = 4 << 20;

const MAGIC: &[u8] = b"PAR1";

// Enumerations of parquet.thrift.
const FLOAT: i64 = 4;
const BYTE_ARRAY: i64 = 6;
const REQUIRED: i64 = 0;
const REPEATED: i64 = 2;
const UTF8: i64 = 0;
const LIST: i64 = 3;
const PLAIN: i64 = 0;
const RLE: i64 = 3;
const UNCOMPRESSED: i64 = 0;
const DATA_PAGE: i64 = 0;

/// Writes a Parquet file row by row; [`ParquetWriter::finish`] ends it.
pub struct ParquetWriter<'a> {
    file: &'a mut dyn Write,
    /// Bytes written so far.
    position: usize,
    features: usize,
    group: Group,
    groups: Vec<Written>,
    rows: usize,
}

/// Rows that are not written yet, their values already in PLAIN encoding.
#[derive(Default)]
struct Group {
    rows: usize,
    paths: Vec<u8>,
    features: Vec<u8>,
}

/// What the footer says of a row group.
struct Written {
    rows: usize,
    columns: [Chunk; 2],
}

/// What the footer says of a column in a row group.
struct Chunk {
    start: usize,
    bytes: usize,
    values: usize,
}

impl<'a> ParquetWriter<'a> {
    /// A table whose rows have so many `features` each.
    pub fn new(file: &'a mut dyn Write, features: usize) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        let (position, group, groups) = (MAGIC.len(), Group::default(), Vec::new());
        Ok(Self { file, position, features, group, groups, rows: 0 })
    }

    /// Adds a row.
    pub fn row(&mut self, path: &str, features: &[f32]) -> io::Result<()> {
        if features.len() != self.features {
            return Err(io::Error::other(format!(
                "expected {} features in a row, found {}",
                self.features,
                features.len()
            )));
        }
        let length = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.group.paths.extend(length.to_le_bytes());
        self.group.paths.extend(path.as_bytes());
        self.group.features.extend(features.iter().flat_map(|value| value.to_le_bytes()));
        self.group.rows += 1;
        if self.group.features.len().max(self.group.paths.len()) >= GROUP_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes the rows that are left, and the footer.
    pub fn finish(mut self) -> io::Result<()> {
        if self.group.rows > 0 {
            self.write_group()?;
        }
        let footer = self.footer();
        self.file.write_all(&footer)?;
        self.file.write_all(&u32::try_from(footer.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.file.write_all(MAGIC)
    }

    fn write_group(&mut self) -> io::Result<()> {
        let Group { rows, paths, features } = std::mem::take(&mut self.group);
        let values = rows * self.features;
        let levels = list_levels(rows, self.features);
        let columns = [self.write_chunk(rows, &[&paths])?, self.write_chunk(values, &[&levels, &features])?];
        self.groups.push(Written { rows, columns });
        self.rows += rows;
        Ok(())
    }

    /// Writes a column chunk of one page.
    fn write_chunk(&mut self, values: usize, parts: &[&[u8]]) -> io::Result<Chunk> {
        let start = self.position;
        let size = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut header = Compact::default();
        header.integer(1, I32, DATA_PAGE);
        header.integer(2, I32, size as i64);
        header.integer(3, I32, size as i64);
        header.structure(5, |page| {
            page.integer(1, I32, values as i64);
            page.integer(2, I32, PLAIN);
            page.integer(3, I32, RLE);
            page.integer(4, I32, RLE);
        });
        for part in [&header.end()[..]].iter().chain(parts) {
            self.file.write_all(part)?;
            self.position += part.len();
        }
        Ok(Chunk { start, bytes: self.position - start, values })
    }

    /// `FileMetaData`
    fn footer(&self) -> Vec<u8> {
        let mut meta = Compact::default();
        meta.integer(1, I32, 1); // Version of the format.
        let schema: [fn(&mut Compact); 5] = [
            |root| {
                root.text(4, "schema");
                root.integer(5, I32, 2);
            },
            |path| {
                path.integer(1, I32, BYTE_ARRAY);
                path.integer(3, I32, REQUIRED);
                path.text(4, "path");
                path.integer(6, I32, UTF8);
                path.structure(10, |kind| kind.structure(1, |_| ())); // STRING
            },
            |features| {
                features.integer(3, I32, REQUIRED);
                features.text(4, "features");
                features.integer(5, I32, 1);
                features.integer(6, I32, LIST);
                features.structure(10, |kind| kind.structure(3, |_| ())); // LIST
            },
            |list| {
                list.integer(3, I32, REPEATED);
                list.text(4, "list");
                list.integer(5, I32, 1);
            },
            |element| {
                element.integer(1, I32, FLOAT);
                element.integer(3, I32, REQUIRED);
                element.text(4, "element");
            },
        ];
        meta.structures(2, schema.len(), |index, element| schema[index](element));
        meta.integer(3, I64, self.rows as i64);
        meta.structures(4, self.groups.len(), |index, group| {
            let Written { rows, columns } = &self.groups[index];
            group.structures(1, columns.len(), |column, chunk| {
                let Chunk { start, bytes, values } = columns[column];
                chunk.integer(2, I64, start as i64);
                chunk.structure(3, |meta| {
                    meta.integer(1, I32, [BYTE_ARRAY, FLOAT][column]);
                    meta.integers(2, &[PLAIN, RLE]);
                    meta.texts(3, [&["path"][..], &["features", "list", "element"]][column]);
                    meta.integer(4, I32, UNCOMPRESSED);
                    meta.integer(5, I64, values as i64);
                    meta.integer(6, I64, bytes as i64);
                    meta.integer(7, I64, bytes as i64);
                    meta.integer(9, I64, start as i64);
                });
            });
            group.integer(2, I64, columns.iter().map(|chunk| chunk.bytes as i64).sum());
            group.integer(3, I64, *rows as i64);
        });
        meta.text(6, concat!("mobilenet version ", env!("CARGO_PKG_VERSION")));
        meta.end()
    }
}

/// Repetition and definition levels of so many lists of `len` ≥ 1 values, each as a length and runs of
/// one bit: where a list starts the repetition level is 0, else 1; every value is there (level 1).
fn list_levels(rows: usize, len: usize) -> Vec<u8> {
    let run = |bytes: &mut Vec<u8>, count: usize, value: u8| {
        varint(bytes, (count as u64) << 1);
        bytes.push(value);
    };
    let (mut repetition, mut definition) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        run(&mut repetition, 1, 0);
        if len > 1 {
            run(&mut repetition, len - 1, 1);
        }
    }
    run(&mut definition, rows * len, 1);
    let mut levels = Vec::new();
    for part in [repetition, definition] {
        levels.extend((part.len() as u32).to_le_bytes());
        levels.extend(part);
    }
    levels
}

// Types of fields in the compact protocol.
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST_FIELD: u8 = 9;
const STRUCT: u8 = 12;

/// A structure in Thrift's compact protocol; fields go by ascending number, at most 15 apart.
#[derive(Default)]
struct Compact {
    bytes: Vec<u8>,
    last: u8,
}

impl Compact {
    fn field(&mut self, number: u8, kind: u8) {
        self.bytes.push((number - self.last) << 4 | kind);
        self.last = number;
    }

    fn integer(&mut self, number: u8, kind: u8, value: i64) {
        self.field(number, kind);
        varint(&mut self.bytes, zigzag(value));
    }

    fn text(&mut self, number: u8, text: &str) {
        self.field(number, BINARY);
        self.raw_text(text);
    }

    fn raw_text(&mut self, text: &str) {
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend(text.as_bytes());
    }

    fn list(&mut self, number: u8, kind: u8, len: usize) {
        self.field(number, LIST_FIELD);
        if len < 15 {
            self.bytes.push((len as u8) << 4 | kind);
        } else {
            self.bytes.push(0xF0 | kind);
            varint(&mut self.bytes, len as u64);
        }
    }

    fn integers(&mut self, number: u8, values: &[i64]) {
        self.list(number, I32, values.len());
        for &value in values {
            varint(&mut self.bytes, zigzag(value));
        }
    }

    fn texts(&mut self, number: u8, texts: &[&str]) {
        self.list(number, BINARY, texts.len());
        for text in texts {
            self.raw_text(text);
        }
    }

    fn structure(&mut self, number: u8, fill: impl FnOnce(&mut Compact)) {
        self.field(number, STRUCT);
        self.nested(fill);
    }

    fn structures(&mut self, number: u8, len: usize, mut fill: impl FnMut(usize, &mut Compact)) {
        self.list(number, STRUCT, len);
        for index in 0..len {
            self.nested(|element| fill(index, element));
        }
    }

    fn nested(&mut self, fill: impl FnOnce(&mut Compact)) {
        let mut inner = Compact::default();
        fill(&mut inner);
        self.bytes.extend(inner.end());
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_thrifts() {
        let encoded = |value: u64| {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            bytes
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(300), [0xAC, 0x02]);
        assert_eq!([0, -1, 1, -2, 2].map(zigzag), [0, 1, 2, 3, 4]);
        let mut long = Compact::default();
        long.structures(4, 20, |_, _| ());
        assert_eq!(long.end()[..3], [0x49, 0xFC, 20]);
    }

    #[test]
    fn levels_tell_lists_apart() {
        // Runs of a bit: a varint of twice the count, then the bit.
        let levels = list_levels(2, 3);
        assert_eq!(levels, [8, 0, 0, 0, 2, 0, 4, 1, 2, 0, 4, 1, 2, 0, 0, 0, 12, 1]);
        assert_eq!(list_levels(1, 1), [2, 0, 0, 0, 2, 0, 2, 0, 0, 0, 2, 1]);
    }

    /// A file to the byte, which pyarrow 26.0 and pandas read as `[("é", [1.0, -2.0])]`.
    #[test]
    fn a_small_file_to_the_byte() {
        let mut bytes = Vec::new();
        let mut writer = ParquetWriter::new(&mut bytes, 2).unwrap();
        writer.row("é", &[1.0, -2.0]).unwrap();
        assert!(writer.row("short", &[1.0]).is_err());
        writer.finish().unwrap();
        let page = |size: u8, values: u8| {
            [0x15, 0, 0x15, 2 * size, 0x15, 2 * size, 0x2C, 0x15, 2 * values, 0x15, 0, 0x15, 6, 0x15, 6, 0, 0]
        };
        let mut expected = b"PAR1".to_vec();
        expected.extend(page(6, 1));
        expected.extend(b"\x02\0\0\0\xC3\xA9");
        expected.extend(page(22, 2));
        expected.extend([4, 0, 0, 0, 2, 0, 2, 1, 2, 0, 0, 0, 4, 1]);
        expected.extend([1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        assert_eq!(bytes[..expected.len()], expected);
        let footer = u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().unwrap()) as usize;
        assert_eq!(expected.len() + footer + 8, bytes.len());
        assert!(bytes.ends_with(b"PAR1"));
    }

    #[test]
    fn many_rows_are_written_in_groups() {
        let mut bytes = Vec::new();
        let mut writer = ParquetWriter::new(&mut bytes, 1024).unwrap();
        for row in 0..2500 {
            writer.row(&row.to_string(), &[row as f32; 1024]).unwrap();
            assert!(writer.group.features.len() < GROUP_BYTES);
        }
        assert_eq!(writer.groups.iter().map(|group| group.rows).collect::<Vec<_>>(), [1024, 1024]);
        writer.finish().unwrap();
    }
}
