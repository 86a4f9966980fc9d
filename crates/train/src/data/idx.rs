//! IDX files, the format of MNIST and its family: plain or gzip-compressed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Crc;
use flate2::read::MultiGzDecoder;
use mobilenet::image::{DecodeLimits, Image};

use super::{DataError, Dataset, Result};

/// The first bytes of a file of 8-bit values with three dimensions (images), or one (labels).
const IMAGES_MAGIC: u32 = 0x0803;
const LABELS_MAGIC: u32 = 0x0801;

/// The classes of Fashion-MNIST.
pub(super) const FASHION_MNIST: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// CRC-32 of the labels of Fashion-MNIST, training and test, so that the set as distributed has
/// its class names although IDX files hold none.
const FASHION_MNIST_LABELS: [u32; 2] = [0x2ed6e46a, 0x242bc73f];

/// A file of images and the file of its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdxPair {
    pub(super) images: PathBuf,
    pub(super) labels: PathBuf,
}

/// The IDX files of a folder: the training part and the test part, if they are there.
pub(super) struct IdxFolder {
    pub(super) train: Option<IdxPair>,
    pub(super) test: Option<IdxPair>,
}

impl IdxPair {
    /// The pair that the file of images at `path` belongs to; the name of its labels is the same
    /// with `labels` and `idx1` for `images` and `idx3`, compressed or not.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let unusable = |problem: String| DataError::Unusable { path: path.to_owned(), problem };
        if !is_images(&name) {
            return Err(unusable(
                "not a data set; an IDX file of images has `images` in its name, as in train-images-idx3-ubyte.gz".into(),
            ));
        }
        let wanted = name.replace("images", "labels").replace("idx3", "idx1");
        let plain = wanted.strip_suffix(".gz").unwrap_or(&wanted).to_owned();
        let folder = path.parent().unwrap_or(Path::new(""));
        [wanted.clone(), plain.clone(), format!("{plain}.gz")]
            .iter()
            .map(|name| folder.join(name))
            .find(|labels| labels.is_file())
            .map(|labels| Self { images: path.to_owned(), labels })
            .ok_or_else(|| unusable(format!("its labels are missing: no file `{wanted}` beside it")))
    }

    /// Reads the pair. The classes are named by `classes.txt` or `labels.txt` beside it (a name a
    /// line), else by number.
    pub(super) fn read(&self, limits: &DecodeLimits) -> Result<Memory> {
        let folder = self.images.parent().unwrap_or(Path::new(""));
        let names = ["classes.txt", "labels.txt"]
            .iter()
            .find_map(|name| std::fs::read_to_string(folder.join(name)).ok())
            .map(|text| {
                text.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect::<Vec<_>>()
            });
        let open = |path: &Path| File::open(path).map_err(DataError::io(path, "read"));
        let images = decompressed(open(&self.images)?).map_err(DataError::io(&self.images, "read"))?;
        let labels = decompressed(open(&self.labels)?).map_err(DataError::io(&self.labels, "read"))?;
        Memory::read(&self.images, images, &self.labels, labels, names, limits)
    }
}

/// A data set from the bytes of a pair of IDX files, plain or gzip-compressed; classes are named by
/// number.
///
/// # Errors
/// When the bytes are not IDX files of 8-bit images and their labels, or do not belong together.
pub fn from_idx_bytes(images: Vec<u8>, labels: Vec<u8>) -> Result<impl Dataset> {
    let path = Path::new("IDX bytes");
    let open = |bytes| decompressed(std::io::Cursor::new(bytes)).map_err(DataError::io(path, "read"));
    Memory::read(path, open(images)?, path, open(labels)?, None, &DecodeLimits::default())
}

/// Whether a file of that name holds IDX images.
pub(super) fn is_images(name: &str) -> bool {
    let lower = name.to_lowercase();
    lower.contains("images") && (lower.contains("idx3") || lower.contains("ubyte"))
}

/// Finds the IDX files of `folder`; `None` if there are none.
pub(super) fn find(folder: &Path, names: &[String]) -> Result<Option<IdxFolder>> {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| is_images(name)) {
        // Of a file that is there twice, the one that needs no decompression.
        if name.strip_suffix(".gz").is_some_and(|plain| names.iter().any(|other| other == plain)) {
            continue;
        }
        let lower = name.to_lowercase();
        let held_out = ["t10k", "test", "val"].iter().any(|word| lower.contains(word));
        if held_out { &mut test } else { &mut train }.push(name);
    }
    for found in [&train, &test] {
        if found.len() > 1 {
            return Err(DataError::Unusable {
                path: folder.to_owned(),
                problem: format!(
                    "holds several IDX data sets ({}, {} …); give the file of images to use",
                    found[0], found[1]
                ),
            });
        }
    }
    if train.is_empty() && test.is_empty() {
        return Ok(None);
    }
    let pair = |found: Vec<&String>| found.first().map(|name| IdxPair::of(&folder.join(name))).transpose();
    Ok(Some(IdxFolder { train: pair(train)?, test: pair(test)? }))
}

/// The content of a reader, decompressed if it begins like gzip.
fn decompressed(reader: impl Read + 'static) -> std::io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    let start = std::io::BufRead::fill_buf(&mut reader)?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader)))
    } else {
        Box::new(reader)
    })
}

/// Grey images in memory.
pub(super) struct Memory {
    classes: Vec<String>,
    images: Vec<Arc<Image>>,
    labels: Vec<u8>,
    name: String,
    size: (usize, usize),
    /// Whether the classes have names of their own and not only numbers.
    pub(super) named: bool,
}

impl Memory {
    fn read(
        images_path: &Path,
        mut images: impl Read,
        labels_path: &Path,
        mut labels: impl Read,
        names: Option<Vec<String>>,
        limits: &DecodeLimits,
    ) -> Result<Self> {
        let [count, height, width] = header(images_path, &mut images, IMAGES_MAGIC, "images")?;
        let [label_count] = header(labels_path, &mut labels, LABELS_MAGIC, "labels")?;
        let unusable = |path: &Path, problem: String| DataError::Unusable { path: path.to_owned(), problem };
        if count != label_count {
            return Err(unusable(
                labels_path,
                format!("holds {label_count} labels for the {count} images of {}", images_path.display()),
            ));
        }
        let pixels = width as u64 * height as u64;
        if pixels == 0 || pixels > limits.max_pixels {
            return Err(unusable(images_path, format!("its images are {width}×{height} pixels")));
        }
        let labels = values(labels_path, labels, label_count as u64)?;
        let mut read = Vec::new();
        for index in 0..count {
            let data = values(images_path, (&mut images).take(pixels), pixels).map_err(|e| match e {
                DataError::Unusable { .. } => {
                    unusable(images_path, format!("ends in image {index} of {count}; the file is cut short"))
                }
                other => other,
            })?;
            read.push(Arc::new(Image::new(width as usize, height as usize, 1, data)?));
        }
        let mut crc = Crc::new();
        crc.update(&labels);
        let highest = labels.iter().max().map_or(0, |&l| usize::from(l));
        let known = FASHION_MNIST_LABELS.contains(&crc.sum());
        let names = names
            .filter(|names| names.len() > highest)
            .or_else(|| known.then(|| FASHION_MNIST.map(str::to_owned).to_vec()));
        Ok(Self {
            named: names.is_some(),
            classes: names.unwrap_or_else(|| (0..=highest).map(|class| class.to_string()).collect()),
            images: read,
            labels,
            name: images_path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size: (width as usize, height as usize),
        })
    }

    /// A pair that is compiled in, with `classes`.
    pub(super) fn embedded(
        name: &str,
        images: &'static [u8],
        labels: &'static [u8],
        classes: &[&str],
    ) -> Result<Self> {
        let path = Path::new(name);
        let open = |bytes: &'static [u8]| decompressed(bytes).map_err(DataError::io(path, "read"));
        let names = Some(classes.iter().map(|&class| class.to_owned()).collect());
        Self::read(path, open(images)?, path, open(labels)?, names, &DecodeLimits::default())
    }

    /// Names the classes anew; an error if there are fewer names than classes in use.
    pub(super) fn rename(&mut self, classes: &[String], path: &Path) -> Result<()> {
        let highest = self.labels.iter().max().map_or(0, |&l| usize::from(l));
        if highest >= classes.len() {
            return Err(DataError::Unusable {
                path: path.to_owned(),
                problem: format!("has a label {highest}, but there are only {} classes", classes.len()),
            });
        }
        self.classes = classes.to_vec();
        Ok(())
    }
}

impl Dataset for Memory {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }

    fn name(&self, index: usize) -> String {
        format!("{}#{index}", self.name)
    }

    fn image(&self, index: usize, channels: usize) -> Result<Arc<Image>> {
        let image = self.images.get(index).ok_or(DataError::Index { index, len: self.len() })?;
        if channels == image.channels() {
            return Ok(Arc::clone(image));
        }
        Ok(Arc::new(Image::clone(image).with_channels(channels)?))
    }

    fn size(&self, _index: usize) -> (usize, usize) {
        self.size
    }

    fn is_grey(&self) -> bool {
        true
    }
}

/// Reads the magic number and `N` dimensions.
fn header<const N: usize>(path: &Path, reader: &mut impl Read, magic: u32, what: &str) -> Result<[u32; N]> {
    let mut word = || {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map(|()| u32::from_be_bytes(bytes)).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                DataError::Unusable { path: path.to_owned(), problem: "too short for an IDX file".into() }
            }
            _ => DataError::io(path, "read")(e),
        })
    };
    let found = word()?;
    if found != magic {
        return Err(DataError::Unusable {
            path: path.to_owned(),
            problem: format!("not an IDX file of {what}: begins with {found:#010x}, expected {magic:#010x}"),
        });
    }
    let mut dimensions = [0; N];
    for dimension in &mut dimensions {
        *dimension = word()?;
    }
    Ok(dimensions)
}

/// Exactly `count` bytes; memory grows with what is really there.
fn values(path: &Path, reader: impl Read, count: u64) -> Result<Vec<u8>> {
    let mut values = Vec::with_capacity(count.min(1 << 16) as usize);
    let cut_short = || DataError::Unusable {
        path: path.to_owned(),
        problem: format!("the file is cut short: expected {count} values"),
    };
    reader.take(count).read_to_end(&mut values).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => cut_short(),
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => DataError::Unusable {
            path: path.to_owned(),
            problem: format!("the compressed file is damaged: {e}"),
        },
        _ => DataError::io(path, "read")(e),
    })?;
    if values.len() as u64 != count {
        return Err(cut_short());
    }
    Ok(values)
}
