//! Requests to the hub: redirects followed here, as what the hub says of a file is in the headers
//! of its first answer, and no token goes to another host.

use std::io::{Read, Write};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Response;

const MOST_REDIRECTS: usize = 10;

/// Asks one hub.
pub struct Client<'a> {
    agent: Agent,
    endpoint: &'a str,
    token: Option<&'a str>,
}

/// An answer whose body is still to come.
pub struct Reply {
    /// The status, no redirect.
    pub status: u16,
    /// The file's ETag (that of the file behind a pointer, where the hub tells it), unquoted.
    pub etag: Option<String>,
    /// The file's size in bytes.
    pub size: Option<u64>,
    /// The commit.
    pub commit: Option<String>,
    response: Response<ureq::Body>,
}

/// Why a download failed.
pub enum Problem {
    /// It could not be stored.
    Disk(std::io::Error),
    /// It did not come, or not whole.
    Network(String),
}

impl<'a> Client<'a> {
    /// For the hub at `endpoint`.
    pub fn new(endpoint: &'a str, token: Option<&'a str>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("mobilenet/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build();
        Self { agent: config.new_agent(), endpoint: endpoint.trim_end_matches('/'), token }
    }

    /// Gets `path` of the hub, following redirects. The error says that there is no connection.
    pub fn get(&self, path: &str) -> Result<Reply, String> {
        let mut url = format!("{}{path}", self.endpoint);
        let (mut etag, mut size, mut commit) = (None, None, None);
        for _ in 0..=MOST_REDIRECTS {
            let mut request = self.agent.get(&url).header("accept-encoding", "identity");
            if let Some(token) = self.token.filter(|_| origin(&url) == origin(self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| {
                format!("no connection to {} ({error}), and the model is not in the cache", origin(&url))
            })?;
            let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            // The hub's own headers count before those of the store that it redirects to.
            etag = etag.or_else(|| header("x-linked-etag").map(|tag| unquoted(&tag)));
            size = size.or_else(|| header("x-linked-size")?.parse().ok());
            commit = commit.or_else(|| header("x-repo-commit"));
            let status = response.status().as_u16();
            if !(300..400).contains(&status) || status == 304 {
                etag = etag.or_else(|| header("etag").map(|tag| unquoted(&tag)));
                size = size.or_else(|| header("content-length")?.parse().ok());
                return Ok(Reply { status, etag, size, commit, response });
            }
            let location = header("location")
                .ok_or_else(|| format!("{} redirects to nowhere ({status})", origin(&url)))?;
            url = resolve(&url, &location);
        }
        Err(format!("{} redirects in a circle", self.endpoint))
    }
}

impl Reply {
    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Hands over the body in parts, up to `most` bytes.
    pub fn read(self, most: u64, mut take: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<u64, String> {
        self.parts(most, &mut take).map_err(|problem| match problem {
            Problem::Disk(error) => error.to_string(),
            Problem::Network(problem) => problem,
        })
    }

    fn parts(self, most: u64, take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<u64, Problem> {
        let expected = self.size;
        let mut body = self.response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut part = vec![0; 1 << 16];
        let mut received = 0u64;
        let cut = |received, why: &str| {
            let of = expected.map_or(String::new(), |size| format!(" of {size}"));
            Problem::Network(format!(
                "the download was cut off after {received}{of} bytes{why}; nothing was kept, try again"
            ))
        };
        loop {
            let count = match body.read(&mut part) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cut(received, &format!(" ({error})"))),
            };
            if count == 0 {
                break;
            }
            received += count as u64;
            if received > most {
                return Err(Problem::Network(format!("more than {most} bytes")));
            }
            take(&part[..count]).map_err(Problem::Disk)?;
        }
        match expected {
            Some(size) if received < size => Err(cut(received, "")),
            Some(size) if received > size => {
                Err(Problem::Network(format!("{received} bytes came, the hub stated {size}")))
            }
            _ => Ok(received),
        }
    }

    /// Writes the body, and checks its size and, where the ETag is a SHA-256, its content.
    pub fn download(self, most: u64, writer: &mut dyn Write) -> Result<(), Problem> {
        let expected = self.etag.clone().filter(|tag| tag.len() == 64);
        let mut sha = Sha256::new();
        self.parts(most, &mut |bytes| {
            sha.update(bytes);
            writer.write_all(bytes)
        })?;
        let found: String = sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        match expected {
            Some(expected) if !expected.eq_ignore_ascii_case(&found) => Err(Problem::Network(format!(
                "what came is damaged (SHA-256 {found}, expected {expected}); nothing was kept, try again"
            ))),
            _ => Ok(()),
        }
    }
}

fn unquoted(tag: &str) -> String {
    tag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |end| &url[..host + end])
}

/// Where a `Location` leads from `base`: absolute, without scheme, from the host's root, or beside.
fn resolve(base: &str, location: &str) -> String {
    let origin = origin(base);
    let scheme = location.split(':').next().unwrap_or_default();
    let is_scheme = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if is_scheme && location[scheme.len()..].starts_with("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        let scheme = base.split_once("//").map_or("https:", |(scheme, _)| scheme);
        format!("{scheme}{location}")
    } else if location.starts_with('/') {
        format!("{origin}{location}")
    } else {
        let path = &base[origin.len()..];
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
        format!("{origin}{folder}{location}")
    }
}

#[cfg(test)]
mod tests {
    use super::{origin, resolve, unquoted};

    #[test]
    fn locations_resolve_against_the_request() {
        let base = "https://hub.example:8443/a/b/resolve/x/f?download=1";
        assert_eq!(origin(base), "https://hub.example:8443");
        assert_eq!(origin("https://hub.example"), "https://hub.example");
        assert_eq!(resolve(base, "/c/d"), "https://hub.example:8443/c/d");
        assert_eq!(resolve(base, "g?x=http://y"), "https://hub.example:8443/a/b/resolve/x/g?x=http://y");
        assert_eq!(resolve(base, "//cdn.example/z"), "https://cdn.example/z");
        assert_eq!(resolve(base, "http://cdn.example/z"), "http://cdn.example/z");
        assert_eq!(unquoted("W/\"abc\""), "abc");
    }
}
