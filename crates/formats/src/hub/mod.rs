//! Models from the Hugging Face hub by name, kept in the cache that `huggingface_hub` uses, in its
//! own layout, so that what Python downloaded is found and the other way round.
//!
//! Protocol and layout: huggingface_hub's `file_download.py` and "Understand caching".

mod cache;
mod http;

use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Result};
use cache::Repository;
use http::{Client, Reply};

/// Weights that are taken, the better first.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// What lies beside them and is taken along.
const CONFIGURATION: [&str; 2] = ["config.json", "preprocessor_config.json"];
/// The largest answer and the largest file that are taken, in bytes.
const LARGEST_JSON: u64 = 16 << 20;
const LARGEST_FILE: u64 = 2 << 30;

/// Fetches a model: `owner/name`, or `owner/name@revision` with a branch, tag or commit. Returns the
/// path of its weights, with `config.json` and `preprocessor_config.json` beside them where the hub
/// has these. What is in the cache already is not downloaded again; without a network it is used
/// as it is.
///
/// The environment is that of `huggingface_hub`: `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`,
/// `HF_TOKEN`, `HF_HUB_OFFLINE`.
///
/// # Errors
/// [`Error::Hub`] with what to do: no such model or revision, a private or gated one, no weights in
/// it, no network and nothing in the cache, a download that was cut off or damaged;
/// [`Error::Io`] and [`Error::Model`] when the cache cannot be written (disk full). Nothing
/// half-written is left.
pub fn fetch(name: &str) -> Result<PathBuf> {
    Hub::from_environment()?.fetch(name)
}

/// A hub, and the cache for what comes from it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// The folder of `models--owner--name`.
    pub cache: PathBuf,
    /// For private and gated models.
    pub token: Option<String>,
    /// Whether only the cache is used.
    pub offline: bool,
}

/// A model's name, taken apart and checked: its parts become parts of paths.
struct Name<'a> {
    owner: &'a str,
    name: &'a str,
    revision: &'a str,
}

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// As the environment says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when neither a home folder nor a cache folder is known.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || {
            variable("HF_HOME").map(PathBuf::from).or_else(|| {
                let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
                let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
                Some(caches?.join("huggingface"))
            })
        };
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")));
        Ok(Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: cache.ok_or_else(|| {
                Error::Unsupported(
                    "there is no home folder for models from the hub; set HF_HUB_CACHE to a folder".into(),
                )
            })?,
            token: variable("HF_TOKEN"),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| {
                matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            }),
        })
    }

    /// Like [`fetch`], from this hub.
    ///
    /// # Errors
    /// Those of [`fetch`].
    pub fn fetch(&self, name: &str) -> Result<PathBuf> {
        let parts = Name::parse(name)?;
        let repository = Repository::new(&self.cache, parts.owner, parts.name);
        let cached = || WEIGHTS.iter().find_map(|file| repository.find(parts.revision, file));
        let failed = |problem: String| Error::Hub { name: name.into(), problem };
        if self.offline {
            return cached().ok_or_else(|| {
                failed(format!(
                    "not in the cache ({}), and HF_HUB_OFFLINE forbids to ask {}; unset it once to download \
                     the model",
                    self.cache.display(),
                    self.endpoint
                ))
            });
        }
        let client = Client::new(&self.endpoint, self.token.as_deref());
        let info = match self.ask(&client, &parts) {
            Ok(info) => info,
            // Without an answer (no network, the server is down) the cache is as good.
            Err((problem, true)) => return cached().ok_or_else(|| failed(problem)),
            Err((problem, false)) => return Err(failed(problem)),
        };
        let has = |file: &str| info.siblings.iter().any(|sibling| sibling.rfilename == file);
        let Some(weights) = WEIGHTS.into_iter().find(|file| has(file)) else {
            let others: Vec<_> = info.siblings.iter().take(12).map(|s| s.rfilename.as_str()).collect();
            return Err(failed(format!(
                "none of {} among its files; it has: {}",
                WEIGHTS.join(", "),
                others.join(", ")
            )));
        };
        // The weights last: where they are in the cache, the rest is as well.
        for file in CONFIGURATION.into_iter().filter(|file| has(file)).chain([weights]) {
            if repository.find(&info.sha, file).is_none() {
                self.download(&client, &parts, &repository, &info.sha, file).map_err(|e| match e {
                    Failure::Told(problem) => failed(format!("{file}: {problem}")),
                    Failure::Error(error) => error,
                })?;
            }
        }
        repository.remember(parts.revision, &info.sha)?;
        repository.find(&info.sha, weights).ok_or_else(|| {
            failed(format!("{weights} vanished from the cache ({}) meanwhile", self.cache.display()))
        })
    }

    /// What the hub says of the revision, or the problem and whether the hub could not be reached.
    fn ask(&self, client: &Client, parts: &Name) -> Result<Info, (String, bool)> {
        let Name { owner, name, revision } = parts;
        let path = format!("/api/models/{owner}/{name}/revision/{}", revision.replace('/', "%2F"));
        let reply = client.get(&path).map_err(|problem| (problem, true))?;
        if let Some(problem) = self.refusal(parts, &reply) {
            return Err((problem, reply.status >= 500));
        }
        let mut json = Vec::new();
        reply
            .read(LARGEST_JSON, |bytes| {
                json.extend_from_slice(bytes);
                Ok(())
            })
            .map_err(|problem| (format!("the answer of {}: {problem}", self.endpoint), true))?;
        let info: Info = serde_json::from_slice(&json).map_err(|error| {
            (
                format!("{} does not answer as a hub does ({error}); is HF_ENDPOINT right?", self.endpoint),
                false,
            )
        })?;
        if info.sha.len() != 40 || !info.sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err((format!("{} names {:?} as its commit", self.endpoint, info.sha), false));
        }
        Ok(info)
    }

    /// The message for an answer that is none.
    fn refusal(&self, parts: &Name, reply: &Reply) -> Option<String> {
        let Self { endpoint, .. } = self;
        let Name { owner, name, revision } = parts;
        let code = reply.header("x-error-code").unwrap_or_default();
        Some(match (reply.status, code) {
            (200..=299, _) => return None,
            (404, "RevisionNotFound") => format!("the model has no revision {revision:?}"),
            (404, "EntryNotFound") => "the model has no such file".into(),
            (403, _) | (_, "GatedRepo") => format!(
                "its owner gives it to those only who accept conditions: do so at {endpoint}/{owner}/{name}, \
                 then set HF_TOKEN to a token of yours"
            ),
            (401 | 404, _) if self.token.is_none() => {
                format!("{endpoint} has no such model (a private one needs HF_TOKEN); is the name right?")
            }
            (401 | 404, _) => {
                format!("{endpoint} has no such model, or HF_TOKEN does not open it; is the name right?")
            }
            (429, _) => format!("{endpoint} had too many requests from here (429); try again later"),
            (status @ 500.., _) => format!("{endpoint} is out of order ({status}); try again later"),
            (status, _) => format!("{endpoint} answered with status {status}"),
        })
    }

    fn download(
        &self,
        client: &Client,
        parts: &Name,
        repository: &Repository,
        commit: &str,
        file: &str,
    ) -> Result<(), Failure> {
        let Name { owner, name, .. } = parts;
        let reply = client.get(&format!("/{owner}/{name}/resolve/{commit}/{file}")).map_err(Failure::Told)?;
        if let Some(problem) = self.refusal(parts, &reply) {
            return Err(Failure::Told(problem));
        }
        if reply.commit.as_deref().is_some_and(|told| told != commit) {
            return Err(Failure::Told(format!("the hub gave it of another commit than {commit}")));
        }
        if reply.size.is_some_and(|size| size > LARGEST_FILE) {
            return Err(Failure::Told(format!(
                "{} bytes, more than any MobileNet v1 has",
                reply.size.unwrap_or_default()
            )));
        }
        let blob = repository.new_blob(reply.etag.as_deref(), commit, file)?;
        let mut told = None;
        let outcome = mobilenet::atomic_file::write(&blob, |writer: &mut dyn Write| {
            let received = reply.download(LARGEST_FILE, writer);
            received.map_err(|problem| match problem {
                http::Problem::Disk(error) => error,
                http::Problem::Network(problem) => {
                    told = Some(problem.clone());
                    std::io::Error::other(problem)
                }
            })
        });
        match (outcome, told) {
            (_, Some(problem)) => Err(Failure::Told(problem)),
            (Err(error), None) => Err(Failure::Error(error.into())),
            (Ok(()), None) => Ok(repository.link(&blob, commit, file)?),
        }
    }
}

/// A failed download: told by the hub or the network, or an error of the cache.
enum Failure {
    Told(String),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let (model, revision) = text.split_once('@').unwrap_or((text, "main"));
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 96
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match model.split_once('/') {
            Some((owner, name)) if part(owner) && part(name) && revision.split('/').all(part) => {
                Ok(Self { owner, name, revision })
            }
            _ => Err(Error::Hub {
                name: text.chars().take(100).collect(),
                problem:
                    "no name of a model on the hub; expected owner/name or owner/name@revision, such as \
                          timm/mobilenetv1_100.ra4_e3600_r224_in1k"
                        .into(),
            }),
        }
    }
}
