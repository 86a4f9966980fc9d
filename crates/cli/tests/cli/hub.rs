//! `hf:owner/name`, against a hub on this machine and without one.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::common::{Ran, mobilenet};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with transformers' golden model as `o/m`; returns its address.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/golden/torch/huggingface");
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            lines.find(|line| line.as_ref().is_ok_and(String::is_empty));
            let path = request.split(' ').nth(1).unwrap_or_default();
            let files = ["config.json", "model.safetensors", "preprocessor_config.json"];
            let body = if path == "/api/models/o/m/revision/main" {
                let siblings = files.map(|file| format!("{{\"rfilename\": \"{file}\"}}")).join(",");
                Some(format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{siblings}]}}").into_bytes())
            } else {
                let file = path.strip_prefix(&format!("/o/m/resolve/{COMMIT}/"));
                file.map(|file| std::fs::read(golden.join(file)).unwrap())
            };
            let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
            let body = body.unwrap_or_default();
            let head =
                format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            // The client may have had enough.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    address
}

/// The command in a folder with its own cache there.
fn within(mut command: Command, folder: &Path, endpoint: &str) -> Command {
    for name in
        ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command.current_dir(folder).env("HF_HOME", folder.join("home")).env("HF_ENDPOINT", endpoint);
    command
}

fn import(folder: &Path, endpoint: &str, name: &str) -> Command {
    let mut command = within(mobilenet(), folder, endpoint);
    command.args(["import", name, "-o", "model.safetensors"]);
    command
}

#[test]
fn a_model_is_imported_by_its_name_and_then_offline() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let ran: Ran = import(folder, &hub(), "hf:o/m").output().unwrap().into();
    ran.succeeded();
    assert!(ran.stdout.contains("Hugging Face"), "{ran:?}");
    let model = mobilenet::Model::load(folder.join("model.safetensors")).unwrap();
    assert_eq!((model.architecture.classes, model.architecture.resolution), (10, 64));

    let nowhere = "http://127.0.0.1:1";
    let ran: Ran = import(folder, nowhere, "hf:o/m").env("HF_HUB_OFFLINE", "1").output().unwrap().into();
    ran.succeeded();
    let ran: Ran = import(folder, nowhere, "hf:o/m").output().unwrap().into();
    ran.succeeded();
}

#[test]
fn what_cannot_be_fetched_says_why() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let endpoint = hub();
    let ran: Ran = import(folder, &endpoint, "hf:o/none").output().unwrap().into();
    ran.failed(1, &["o/none", "no such model"]);
    let ran: Ran = import(folder, &endpoint, "hf:none").output().unwrap().into();
    ran.failed(1, &["owner/name"]);
    let ran: Ran = import(folder, &endpoint, "hf:o/m").env("HF_HUB_OFFLINE", "1").output().unwrap().into();
    ran.failed(1, &["o/m: not in the cache", "HF_HUB_OFFLINE"]);
    let ran: Ran = import(folder, "http://127.0.0.1:1", "hf:o/m").output().unwrap().into();
    ran.failed(1, &["no connection to http://127.0.0.1:1"]);
    assert!(!folder.join("model.safetensors").exists());
}

#[test]
#[cfg(unix)]
fn a_full_disk_leaves_no_half_download() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    // A limit on the size of files stands for the disk: the weights do not fit under it.
    let mut command = within(Command::new("sh"), folder, &hub());
    command.args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$0\" import hf:o/m -o model.safetensors"]);
    let ran: Ran = command.arg(env!("CARGO_BIN_EXE_mobilenet")).output().unwrap().into();
    ran.failed(1, &["models--o--m/blobs/", "cannot write"]);
    let blobs = folder.join("home/hub/models--o--m/blobs");
    let largest = blobs.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).max();
    assert!(largest.unwrap() < 2000, "only the configuration is there");
}
