//! The Hugging Face hub's protocol against a server of our own on this machine.
#![cfg(feature = "hub")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mobilenet_formats::Error;
use mobilenet_formats::hub::Hub;
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONFIG: &[u8] = b"{\"model_type\": \"mobilenet_v1\"}";

/// One answer of the server.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    cut: Option<usize>,
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Answer { status, headers, body: body.into(), cut: None }
}

/// A hub that knows some paths and notes what it is asked.
struct Server {
    endpoint: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answers: &[(&str, Answer)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let answers = answers.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())).collect();
        let server = Self { endpoint, answers: Arc::new(Mutex::new(answers)), asked: Arc::default() };
        let (answers, asked) = (server.answers.clone(), server.asked.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &answers, &asked);
            }
        });
        server
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.into(), answer);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn serve(
    mut stream: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut token = false;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        token |= line == "authorization: bearer secret";
        if line.is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(format!("{path}{}", if token { " with token" } else { "" }));
    let answer = answers.lock().unwrap().get(&path).cloned().unwrap_or(answer(404, &[], b"not here"));
    write!(stream, "HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "Content-Length: {}\r\n\r\n", answer.body.len())?;
    stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
    stream.flush()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn weights() -> Vec<u8> {
    (0..200_000u32).flat_map(u32::to_le_bytes).collect()
}

fn info(files: &[&str]) -> Answer {
    let siblings: Vec<_> = files.iter().map(|file| format!("{{\"rfilename\": \"{file}\"}}")).collect();
    let json = format!("{{\"id\": \"o/m\", \"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(","));
    answer(200, &[("Content-Type", "application/json")], json.as_bytes())
}

/// A hub with one model, whose weights are behind a relative and an absolute redirect.
fn hub() -> (Server, Hub, tempfile::TempDir) {
    let content = weights();
    let store = Server::start(&[("/store/blob?signed=1", answer(200, &[("ETag", "\"store\"")], &content))]);
    let server = Server::start(&[
        ("/api/models/o/m/revision/main", info(&["README.md", "config.json", "model.safetensors"])),
        (
            &format!("/o/m/resolve/{COMMIT}/config.json"),
            answer(200, &[("ETag", "W/\"00112233445566778899aabbccddeeff00112233\"")], CONFIG),
        ),
        (
            &format!("/o/m/resolve/{COMMIT}/model.safetensors"),
            answer(307, &[("Location", "/api/resolve-cache/m"), ("X-Repo-Commit", COMMIT)], b"moved"),
        ),
        (
            "/api/resolve-cache/m",
            answer(
                302,
                &[
                    ("Location", &format!("{}/store/blob?signed=1", store.endpoint)),
                    ("X-Repo-Commit", COMMIT),
                    ("X-Linked-Etag", &format!("\"{}\"", sha256(&content))),
                    ("X-Linked-Size", &content.len().to_string()),
                ],
                b"",
            ),
        ),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: server.endpoint.clone(),
        cache: folder.path().join("hub"),
        token: None,
        offline: false,
    };
    (server, hub, folder)
}

fn problem(result: Result<PathBuf, Error>) -> String {
    match result {
        Err(error @ Error::Hub { .. }) => error.to_string(),
        other => panic!("expected a message of the hub, found {other:?}"),
    }
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

#[test]
fn a_model_is_downloaded_into_the_cache_of_huggingface_hub() {
    let (server, hub, _folder) = hub();
    let path = hub.fetch("o/m").unwrap();
    let model = hub.cache.join("models--o--m");
    assert_eq!(path, model.join("snapshots").join(COMMIT).join("model.safetensors"));
    assert_eq!(std::fs::read(&path).unwrap(), weights());
    assert_eq!(std::fs::read(path.with_file_name("config.json")).unwrap(), CONFIG);
    assert_eq!(std::fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    assert!(model.join("blobs").join(sha256(&weights())).is_file());
    assert!(model.join("blobs/00112233445566778899aabbccddeeff00112233").is_file());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&path).unwrap(),
        Path::new("../../blobs").join(sha256(&weights())),
        "links are relative"
    );
    // The second time only the revision is asked for.
    server.asked();
    assert_eq!(hub.fetch("o/m").unwrap(), path);
    assert_eq!(server.asked(), ["/api/models/o/m/revision/main"]);
}

#[test]
fn the_cache_serves_without_a_network() {
    let (server, hub, _folder) = hub();
    let path = hub.fetch("o/m").unwrap();
    server.asked();
    let offline = Hub { offline: true, ..hub.clone() };
    assert_eq!(offline.fetch("o/m").unwrap(), path);
    assert_eq!(offline.fetch(&format!("o/m@{COMMIT}")).unwrap(), path);
    assert!(server.asked().is_empty());
    // Nobody listens at this port; and a server that is out of order.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Hub { endpoint: format!("http://{closed}"), ..hub.clone() };
    assert_eq!(unreachable.fetch("o/m").unwrap(), path);
    server.set("/api/models/o/m/revision/main", answer(503, &[], b""));
    assert_eq!(hub.fetch("o/m").unwrap(), path);

    let error = problem(offline.fetch("o/other"));
    assert!(error.contains("o/other: not in the cache") && error.contains("HF_HUB_OFFLINE"), "{error}");
    let error = problem(unreachable.fetch("o/other"));
    assert!(error.contains(&format!("no connection to http://{closed}")), "{error}");
    let error = problem(Hub { endpoint: "http://hub.invalid".into(), ..hub.clone() }.fetch("o/other"));
    assert!(error.contains("no connection to http://hub.invalid"), "{error}");
}

#[test]
fn a_model_that_does_not_exist_is_said_not_to() {
    let (server, hub, _folder) = hub();
    let error = problem(hub.fetch("o/none"));
    assert!(error.contains("o/none") && error.contains("no such model"), "{error}");
    // The hub answers so where nobody is logged in.
    server.set("/api/models/o/none/revision/main", answer(401, &[("X-Error-Code", "RepoNotFound")], b""));
    let error = problem(hub.fetch("o/none"));
    assert!(error.contains("no such model") && error.contains("HF_TOKEN"), "{error}");
    server.set("/api/models/o/m/revision/v9", answer(404, &[("X-Error-Code", "RevisionNotFound")], b""));
    assert!(problem(hub.fetch("o/m@v9")).contains("no revision \"v9\""));
    server.set("/api/models/o/m/revision/gated", answer(403, &[("X-Error-Code", "GatedRepo")], b""));
    assert!(problem(hub.fetch("o/m@gated")).contains("accept conditions"));
    server.set("/api/models/o/m/revision/flax", info(&["flax_model.msgpack"]));
    let error = problem(hub.fetch("o/m@flax"));
    assert!(error.contains("none of model.safetensors") && error.contains("flax_model.msgpack"), "{error}");
    server.set("/api/models/o/m/revision/page", answer(200, &[], b"<html>"));
    assert!(problem(hub.fetch("o/m@page")).contains("HF_ENDPOINT"));
    assert!(files(&hub.cache).is_empty(), "nothing was stored");
}

#[test]
fn older_models_have_pytorch_model_bin() {
    let (server, hub, _folder) = hub();
    server.set("/api/models/o/m/revision/refs%2Fpr%2F1", info(&["pytorch_model.bin"]));
    server.set(&format!("/o/m/resolve/{COMMIT}/pytorch_model.bin"), answer(200, &[], b"a pickle"));
    let path = hub.fetch("o/m@refs/pr/1").unwrap();
    assert!(path.ends_with("pytorch_model.bin"));
    assert_eq!(std::fs::read(&path).unwrap(), b"a pickle");
    assert_eq!(Hub { offline: true, ..hub.clone() }.fetch("o/m@refs/pr/1").unwrap(), path);
}

#[test]
fn cut_and_damaged_downloads_leave_nothing() {
    let (server, hub, _folder) = hub();
    let file = format!("/o/m/resolve/{COMMIT}/model.safetensors");
    let content = weights();
    let etag = format!("\"{}\"", sha256(&content));
    let cut = Answer { cut: Some(300_000), ..answer(200, &[("ETag", &etag)], &content) };
    let damaged = answer(200, &[("ETag", &etag)], &vec![0; content.len()]);
    let short = answer(200, &[("X-Linked-Size", "800000")], &content[..1000]);
    let other = answer(200, &[("X-Repo-Commit", "f00")], &content);
    let huge = answer(200, &[("X-Linked-Size", "99999999999")], &content);
    let circle = answer(302, &[("Location", "model.safetensors")], b"");
    let nowhere = answer(302, &[], b"");
    let cases = [
        (cut, "cut off after 300000 of 800000 bytes"),
        (damaged, "damaged (SHA-256"),
        (short, "cut off after 1000 of 800000 bytes"),
        (other, "another commit"),
        (huge, "99999999999 bytes"),
        (circle, "circle"),
        (nowhere, "nowhere"),
        (answer(404, &[("X-Error-Code", "EntryNotFound")], b""), "no such file"),
        (answer(500, &[], b""), "out of order (500)"),
    ];
    for (reply, expected) in cases {
        server.set(&file, reply);
        let error = problem(hub.fetch("o/m"));
        assert!(error.contains(expected), "{error}");
        let left: Vec<_> =
            files(&hub.cache).into_iter().filter(|path| !path.ends_with("config.json")).collect();
        assert_eq!(left.len(), 1, "only the configuration's blob: {left:?}");
        assert!(Hub { offline: true, ..hub.clone() }.fetch("o/m").is_err());
    }
    // And then it comes.
    server.set(&file, answer(200, &[("ETag", &etag)], &content));
    assert_eq!(std::fs::read(hub.fetch("o/m").unwrap()).unwrap(), content);
}

#[test]
fn what_is_fetched_loads_with_its_configuration() {
    let (server, hub, _folder) = hub();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch/huggingface");
    let names = ["config.json", "model.safetensors", "preprocessor_config.json"];
    server.set("/api/models/o/m/revision/main", info(&names));
    for name in names {
        let content = std::fs::read(golden.join(name)).unwrap();
        let etag = format!("\"{}\"", sha256(&content));
        server.set(&format!("/o/m/resolve/{COMMIT}/{name}"), answer(200, &[("ETag", &etag)], &content));
    }
    let path = hub.fetch("o/m").unwrap();
    let model = mobilenet_formats::source::load(&path, &Default::default()).unwrap().imported.model;
    // What only the configuration tells.
    assert_eq!(model.architecture.resolution, 64);
    assert!(model.architecture.conventions.background_class);
    assert_eq!(model.labels[0], "class 1");
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, hub, _folder) = hub();
    let store = Server::start(&[("/x", answer(200, &[], b"weights"))]);
    let file = format!("/o/m/resolve/{COMMIT}/model.safetensors");
    server.set(&file, answer(302, &[("Location", &format!("{}/x", store.endpoint))], b""));
    Hub { token: Some("secret".into()), ..hub }.fetch("o/m").unwrap();
    assert!(server.asked().iter().all(|asked| asked.ends_with("with token")));
    assert_eq!(store.asked(), ["/x"]);
}

#[test]
fn names_are_checked_before_they_become_paths() {
    let (server, hub, _folder) = hub();
    for name in ["", "m", "o/", "/m", "o/m/x", "../m", "o/..", "o/m@", "o/m@../..", "o/m@/x", "o /m", "o/m?x"]
    {
        assert!(problem(hub.fetch(name)).contains("owner/name"), "{name}");
    }
    // Nor does the hub choose a path.
    let json = br#"{"sha": "../../../../../../../../../../tmp/x", "siblings": [{"rfilename": "model.safetensors"}]}"#;
    server.set("/api/models/o/m/revision/main", answer(200, &[], json));
    assert!(problem(hub.fetch("o/m")).contains("as its commit"));
    server.set("/api/models/o/m/revision/main", info(&["model.safetensors"]));
    server.set(
        &format!("/o/m/resolve/{COMMIT}/model.safetensors"),
        answer(200, &[("ETag", "\"../../../escaped\"")], b"weights"),
    );
    hub.fetch("o/m").unwrap();
    assert!(hub.cache.join(format!("models--o--m/blobs/{COMMIT}-model.safetensors")).is_file());
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let (_server, hub, folder) = hub();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let error = Hub { cache: folder.path().join("file"), ..hub }.fetch("o/m").unwrap_err();
    assert!(error.to_string().contains("file/models--o--m/blobs: cannot make the folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_lost_blob_is_downloaded_again() {
    let (server, hub, _folder) = hub();
    let path = hub.fetch("o/m").unwrap();
    std::fs::remove_file(path.canonicalize().unwrap()).unwrap();
    server.asked();
    assert_eq!(std::fs::read(hub.fetch("o/m").unwrap()).unwrap(), weights());
    assert!(server.asked().iter().all(|asked| !asked.contains("config.json")));
}
