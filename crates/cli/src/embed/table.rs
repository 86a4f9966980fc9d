//! The files that features are written to, row by row.

use std::ffi::OsStr;
use std::io::{self, SeekFrom, Write};
use std::path::Path;

use clap::ValueEnum;
use mobilenet::atomic_file::WriteSeek;
use serde::Serialize;

use super::parquet::ParquetWriter;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// NumPy's array `[N, features]`, with the paths in a `.txt` beside it
    Npy,
    /// A column `path` and a column a feature
    Csv,
    /// Columns `path` and `features`, a list of floats
    Parquet,
    /// A JSON object a line: `path`, `features`
    Jsonl,
}

impl Format {
    /// The format that a file's name ends in.
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(OsStr::to_str)?.to_lowercase();
        match extension.as_str() {
            "npy" => Some(Self::Npy),
            "csv" => Some(Self::Csv),
            "parquet" | "pq" => Some(Self::Parquet),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }
}

/// A file that takes rows of a path and so many features.
pub enum Table<'a> {
    Npy(Npy<'a>),
    Csv(&'a mut dyn Write),
    Parquet(ParquetWriter<'a>),
    Jsonl(&'a mut dyn Write),
}

/// An array whose number of rows is only known at the end.
pub struct Npy<'a> {
    file: &'a mut dyn WriteSeek,
    rows: usize,
    features: usize,
}

impl<'a> Table<'a> {
    /// Begins a file.
    pub fn begin(format: Format, file: &'a mut dyn WriteSeek, features: usize) -> io::Result<Self> {
        Ok(match format {
            Format::Npy => {
                file.write_all(&npy_header(0, features))?;
                Self::Npy(Npy { file, rows: 0, features })
            }
            Format::Csv => {
                write!(file, "path")?;
                for feature in 0..features {
                    write!(file, ",feature_{feature}")?;
                }
                writeln!(file)?;
                Self::Csv(file)
            }
            Format::Parquet => Self::Parquet(ParquetWriter::new(file, features)?),
            Format::Jsonl => Self::Jsonl(file),
        })
    }

    /// Adds a row.
    pub fn row(&mut self, path: &str, features: &[f32]) -> io::Result<()> {
        match self {
            Self::Npy(npy) => {
                let bytes: Vec<u8> = features.iter().flat_map(|value| value.to_le_bytes()).collect();
                npy.rows += 1;
                npy.file.write_all(&bytes)
            }
            Self::Csv(file) => {
                write!(file, "{}", csv_cell(path))?;
                for value in features {
                    write!(file, ",{value}")?;
                }
                writeln!(file)
            }
            Self::Parquet(writer) => writer.row(path, features),
            Self::Jsonl(file) => {
                #[derive(Serialize)]
                struct Row<'a> {
                    path: &'a str,
                    features: &'a [f32],
                }
                writeln!(file, "{}", serde_json::to_string(&Row { path, features })?)
            }
        }
    }

    /// Ends the file.
    pub fn finish(self) -> io::Result<()> {
        match self {
            Self::Npy(Npy { file, rows, features }) => {
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&npy_header(rows, features))
            }
            Self::Parquet(writer) => writer.finish(),
            Self::Csv(_) | Self::Jsonl(_) => Ok(()),
        }
    }
}

/// The beginning of a file of NumPy's format 1.0, 128 bytes whatever the numbers.
fn npy_header(rows: usize, features: usize) -> Vec<u8> {
    const LENGTH: usize = 128;
    let about = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {features}), }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((LENGTH - 10) as u16).to_le_bytes());
    header.extend(about.as_bytes());
    header.resize(LENGTH - 1, b' ');
    header.push(b'\n');
    header
}

/// A cell as RFC 4180 has it: in quotes where it holds what ends a cell.
fn csv_cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn written(format: Format) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut table = Table::begin(format, &mut file, 2).unwrap();
        table.row("a,\"b\".png", &[0.5, 1e-9]).unwrap();
        table.row("ü", &[3.0, -0.1]).unwrap();
        table.finish().unwrap();
        file.into_inner()
    }

    #[test]
    fn text_formats_keep_every_digit_and_every_path() {
        let csv = String::from_utf8(written(Format::Csv)).unwrap();
        assert_eq!(csv, "path,feature_0,feature_1\n\"a,\"\"b\"\".png\",0.5,0.000000001\nü,3,-0.1\n");
        let text = String::from_utf8(written(Format::Jsonl)).unwrap();
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0], serde_json::json!({"path": "a,\"b\".png", "features": [0.5, 1e-9]}));
        assert_eq!(rows[1]["features"][1].as_f64().unwrap() as f32, -0.1);
    }

    #[test]
    fn an_array_knows_its_number_of_rows() {
        let bytes = written(Format::Npy);
        assert_eq!(bytes[..10], *b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        assert!(header.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }  "));
        assert!(header.ends_with(" \n"));
        assert_eq!(bytes[128..], [0.5f32, 1e-9, 3.0, -0.1].map(f32::to_le_bytes).concat());
        assert_eq!(npy_header(usize::MAX, usize::MAX).len(), 128);
    }

    #[test]
    fn formats_go_by_the_end_of_the_name() {
        for (name, format) in [
            ("a.npy", Some(Format::Npy)),
            ("a.b.CSV", Some(Format::Csv)),
            ("a.parquet", Some(Format::Parquet)),
            ("a.jsonl", Some(Format::Jsonl)),
            ("a.json", None),
            ("npy", None),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
