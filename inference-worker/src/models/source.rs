//! An Alias's `source`, `revision` and `sha256`, parsed once into what cannot be wrong.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use bodhi_proto::secret::Secret;
use url::{Host, Url};

/// What is wrong with an Alias's words. The text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Longer than a URL may be, or none at all.
    #[error("source has {0} bytes: 1 to 2048 are allowed")]
    Length(usize),
    /// No scheme, or one that is not known.
    #[error("source '{0}' begins with none of hf://, https://, s3://, pvc://, file://")]
    Scheme(String),
    /// A scheme of the future.
    #[error("oci:// sources cannot be downloaded by this version")]
    Oci,
    /// The rest does not have the scheme's shape.
    #[error("source '{source_text}' is not {shape}")]
    Shape {
        /// As written.
        source_text: String,
        /// The shape it should have.
        shape: &'static str,
    },
    /// Cleartext to another machine.
    #[error("source '{0}': http:// is for loopback addresses; use https://")]
    PlainHttp(String),
    /// Credentials do not belong into an object that many may read.
    #[error(
        "source holds a user name or password: put them into a Secret and name it in credentialsRef"
    )]
    Userinfo,
    /// Not a digest.
    #[error("sha256 '{0}' is not 64 hexadecimal digits")]
    Sha256(String),
    /// Not a revision.
    #[error("revision '{0}' is not a commit, tag or branch: 1 to 128 letters, digits and . _ - /")]
    Revision(String),
    /// Only the hub has revisions.
    #[error("revision is for hf:// sources; pin this one by sha256")]
    RevisionWithoutHub,
    /// A hub's branch moves.
    #[error(
        "hf:// needs revision (a commit) or sha256, or allowFloating: true to follow the branch main"
    )]
    Floating,
    /// One digest cannot pin several files.
    #[error(
        "sha256 pins one file and the source is {0} files: pin a hf:// source by revision, or merge the files (llama-gguf-split --merge)"
    )]
    SplitSha256(u32),
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl FromStr for Digest {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let bad = || SourceError::Sha256(shortened(text));
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(bad);
            // Two hexadecimal digits are at most 255.
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Where a model lies. One file, or the first of the files of a split model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `file:///path`: on this machine.
    File(PathBuf),
    /// `pvc://claim/path`: on a volume that the controller mounted for this worker.
    Claim {
        /// The PersistentVolumeClaim's name.
        claim: String,
        /// Below the volume's root, without `.` and `..`.
        path: String,
    },
    /// `https://…`: any web server.
    Web(Url),
    /// `hf://owner/repo/path/file.gguf`: a file of a model hub's repository.
    Hub {
        /// `owner/repo`.
        repository: String,
        /// Below the repository's root.
        path: String,
    },
    /// `s3://bucket/key`: an object store that speaks S3.
    S3 {
        /// 3 to 63 letters, digits, dots and hyphens.
        bucket: String,
        /// The object's key.
        key: String,
    },
}

/// Which machines may be spoken to in cleartext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainHttp {
    /// This one only.
    #[default]
    Loopback,
    /// Any that the egress policy allows: by an operator's explicit word.
    Anywhere,
}

impl PlainHttp {
    /// Whether `url` is https, or http where that is allowed.
    pub(super) fn allows(self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self == Self::Anywhere || is_loopback(url),
            _ => false,
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// What an Alias asks for: a source, how it is pinned, and the token for it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where from.
    pub source: Source,
    /// A hub's commit, tag or branch.
    pub revision: Option<String>,
    /// What the file must be.
    pub sha256: Option<Digest>,
    /// Bearer token for the source's own origin; it goes nowhere else.
    pub token: Option<Secret>,
}

impl Spec {
    /// From the Alias's fields; empty texts count as absent.
    ///
    /// # Errors
    /// [`SourceError`], the first fault.
    pub fn parse(
        source: &str,
        revision: Option<&str>,
        sha256: Option<&str>,
        floating: Floating,
        plain: PlainHttp,
    ) -> Result<Self, SourceError> {
        let source = Source::parse(source, plain)?;
        let revision = revision.filter(|r| !r.is_empty());
        let sha256 = sha256
            .filter(|s| !s.is_empty())
            .map(str::parse)
            .transpose()?;
        if let Some(revision) = revision {
            if !is_revision(revision) {
                return Err(SourceError::Revision(shortened(revision)));
            }
            if !matches!(source, Source::Hub { .. }) {
                return Err(SourceError::RevisionWithoutHub);
            }
        }
        let pinned = revision.is_some() || sha256.is_some() || floating == Floating::Allowed;
        if matches!(source, Source::Hub { .. }) && !pinned {
            return Err(SourceError::Floating);
        }
        let parts = source.parts().len();
        if parts > 1 && sha256.is_some() {
            return Err(SourceError::SplitSha256(
                u32::try_from(parts).unwrap_or(u32::MAX),
            ));
        }
        Ok(Self {
            source,
            revision: revision.map(str::to_owned),
            sha256,
            token: None,
        })
    }

    /// Whether what is there once stays right for ever: no server needs to be asked again.
    pub fn is_pinned(&self) -> bool {
        let commit = |r: &String| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit());
        self.sha256.is_some() || self.revision.as_ref().is_some_and(commit)
    }
}

/// `allowFloating`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floating {
    /// A hub's branch may be followed.
    Allowed,
    /// A hub's file must be pinned.
    Refused,
}

impl Source {
    /// From the Alias's text.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, SourceError> {
        if text.is_empty() || text.len() > 2048 {
            return Err(SourceError::Length(text.len()));
        }
        let unknown = || SourceError::Scheme(shortened(text));
        let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
        let bad = |shape| SourceError::Shape {
            source_text: shortened(text),
            shape,
        };
        match scheme {
            "hf" => hub(rest).ok_or_else(|| {
                bad("hf://owner/repository/file.gguf: a file of a repository, not the repository")
            }),
            "s3" => s3(rest).ok_or_else(|| bad("s3://bucket/key")),
            "pvc" => claim(rest).ok_or_else(|| bad("pvc://claim/path, without . and ..")),
            "file" => file(rest).ok_or_else(|| bad("file:///absolute/path, without . and ..")),
            "http" | "https" => web(text, plain),
            "oci" => Err(SourceError::Oci),
            _ => Err(unknown()),
        }
    }

    /// The files that make the model: itself, or all parts of a split one in order.
    ///
    /// A split model's files are named `…-00001-of-00003.gguf`; whichever is named, all are meant.
    pub fn parts(&self) -> Vec<Source> {
        let numbered = |path: &str| Some(SplitName::parse(path)?.all());
        let each = |paths: Option<Vec<String>>, part: &dyn Fn(String) -> Source| match paths {
            Some(paths) => paths.into_iter().map(part).collect(),
            None => vec![self.clone()],
        };
        match self {
            Self::File(path) => each(path.to_str().and_then(numbered), &|p| Self::File(p.into())),
            Self::Claim { claim, path } => each(numbered(path), &|path| Self::Claim {
                claim: claim.clone(),
                path,
            }),
            Self::Hub { repository, path } => each(numbered(path), &|path| Self::Hub {
                repository: repository.clone(),
                path,
            }),
            Self::S3 { bucket, key } => each(numbered(key), &|key| Self::S3 {
                bucket: bucket.clone(),
                key,
            }),
            Self::Web(url) => each(numbered(url.path()), &|path| {
                let mut url = url.clone();
                url.set_path(&path);
                Self::Web(url)
            }),
        }
    }

    /// What the file is called; safe as a name in a folder.
    pub(super) fn file_name(&self) -> String {
        let path = match self {
            Self::File(path) => path.to_str().unwrap_or_default(),
            Self::Claim { path, .. } | Self::Hub { path, .. } => path,
            Self::S3 { key, .. } => key,
            Self::Web(url) => url.path(),
        };
        let last = path.rsplit('/').next().unwrap_or_default();
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let mut name: String = last
            .chars()
            .map(|c| if safe(c) { c } else { '_' })
            .collect();
        // What follows is the number of a part, so the front is what may go.
        if name.len() > 128 {
            name.drain(..name.len() - 128);
        }
        match name.trim_start_matches('.') {
            "" => "model.gguf".to_owned(),
            name => name.to_owned(),
        }
    }
}

/// As in an Alias, but without a URL's query: that may hold a signature.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Claim { claim, path } => write!(f, "pvc://{claim}/{path}"),
            Self::Hub { repository, path } => write!(f, "hf://{repository}/{path}"),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Web(url) => f.write_str(&shown(url)),
        }
    }
}

/// Origin and path of a URL.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// `PREFIX-NNNNN-of-NNNNN.gguf`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SplitName<'a> {
    prefix: &'a str,
    count: u32,
}

impl<'a> SplitName<'a> {
    /// As many as llama.cpp's naming has digits for, within reason.
    const MOST: u32 = 512;

    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let parse =
            |digits: &str| match digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()) {
                true => digits.parse::<u32>().ok(),
                false => None,
            };
        let (number, count) = (parse(number)?, parse(count)?);
        let sound = (1..=count).contains(&number) && (2..=Self::MOST).contains(&count);
        sound.then_some(Self { prefix, count })
    }

    pub(super) fn all(&self) -> Vec<String> {
        let Self { prefix, count } = self;
        let name = |n| format!("{prefix}-{n:05}-of-{count:05}.gguf");
        (1..=*count).map(name).collect()
    }
}

fn is_revision(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(allowed) && plain_path(text)
}

/// Segments that are neither empty nor lead elsewhere.
fn plain_path(path: &str) -> bool {
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    path.split('/').all(plain) && !path.contains(['\0', '\\'])
}

fn hub(rest: &str) -> Option<Source> {
    let mut segments = rest.splitn(3, '/');
    let (owner, name, path) = (segments.next()?, segments.next()?, segments.next()?);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let named = |part: &str| part.len() <= 96 && part.bytes().all(allowed) && plain_path(part);
    let sound = named(owner) && named(name) && plain_path(path) && path.ends_with(".gguf");
    sound.then(|| Source::Hub {
        repository: format!("{owner}/{name}"),
        path: path.to_owned(),
    })
}

/// Bucket names: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
fn s3(rest: &str) -> Option<Source> {
    let (bucket, key) = rest.split_once('/')?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let named = (3..=63).contains(&bucket.len()) && bucket.bytes().all(allowed);
    (named && plain_path(key)).then(|| Source::S3 {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    })
}

fn claim(rest: &str) -> Option<Source> {
    let (claim, path) = rest.split_once('/')?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b);
    let named = (1..=253).contains(&claim.len()) && claim.bytes().all(allowed);
    (named && plain_path(claim) && plain_path(path)).then(|| Source::Claim {
        claim: claim.to_owned(),
        path: path.to_owned(),
    })
}

fn file(rest: &str) -> Option<Source> {
    let below = rest.strip_prefix('/')?;
    plain_path(below).then(|| Source::File(rest.into()))
}

fn web(text: &str, plain: PlainHttp) -> Result<Source, SourceError> {
    let bad = || SourceError::Shape {
        source_text: shortened(text),
        shape: "https://host/path",
    };
    let mut url = Url::parse(text).map_err(|_| bad())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SourceError::Userinfo);
    }
    if !plain.allows(&url) {
        return Err(SourceError::PlainHttp(shortened(text)));
    }
    url.set_fragment(None);
    match url.path() {
        "" | "/" => Err(bad()),
        _ => Ok(Source::Web(url)),
    }
}

/// For a message; a query is left out.
fn shortened(text: &str) -> String {
    let text = text.split('?').next().unwrap_or_default();
    // `hf://user:password@…` is a fault too, and nothing to repeat.
    let text = match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    };
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Source, SourceError> {
        Source::parse(text, PlainHttp::Loopback)
    }

    #[test]
    fn each_scheme_is_read_and_shown_as_it_was_written() {
        for text in [
            "hf://Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",
            "hf://o/r/folder/file.gguf",
            "https://example.com/models/a.gguf",
            "https://example.com:8443/download",
            "http://127.0.0.1:8080/a.gguf",
            "http://[::1]:8080/a.gguf",
            "http://localhost/a.gguf",
            "s3://bucket/folder/a.gguf",
            "pvc://claim/folder/a.gguf",
            "file:///srv/models/a.gguf",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let signed = parse("https://example.com/a.gguf?signature=canary").unwrap();
        assert_eq!(signed.to_string(), "https://example.com/a.gguf");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("", "0 bytes"),
            ("qwen3", "none of hf://"),
            ("ftp://host/a.gguf", "none of hf://"),
            ("oci://registry/model@sha256:0", "oci://"),
            ("hf://Qwen/Qwen3-4B-GGUF", "not the repository"),
            ("hf://Qwen/Qwen3-4B-GGUF/", "not the repository"),
            ("hf://Qwen/Qwen3-4B-GGUF/README.md", "not the repository"),
            ("hf://../../a.gguf", "not the repository"),
            ("hf://a/b/../c.gguf", "not the repository"),
            ("s3://b/key", "s3://bucket/key"),
            ("s3://bucket", "s3://bucket/key"),
            ("pvc://claim/../etc", "without . and .."),
            ("pvc://../etc/a", "without . and .."),
            ("file://host/a.gguf", "file:///absolute"),
            ("file:///a/../b", "file:///absolute"),
            ("http://example.com/a.gguf", "http:// is for loopback"),
            ("http://10.0.0.1/a.gguf", "http:// is for loopback"),
            ("https://user:canary@example.com/a", "credentialsRef"),
            ("hf://user:canary@host/b", "not the repository"),
            ("https://example.com/", "https://host/path"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("canary"), "{error}");
        }
        let anywhere = Source::parse("http://10.0.0.1/a.gguf", PlainHttp::Anywhere);
        assert!(anywhere.is_ok());
    }

    #[test]
    fn pins_fit_their_source() {
        let spec = |source, revision, sha256, floating| {
            Spec::parse(source, revision, sha256, floating, PlainHttp::Loopback)
        };
        let hub = "hf://o/r/a.gguf";
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let digest = "ab".repeat(32);
        let refused = Floating::Refused;
        assert_eq!(
            spec(hub, None, None, refused).unwrap_err(),
            SourceError::Floating
        );
        assert_eq!(
            spec(hub, Some(""), Some(""), refused).unwrap_err(),
            SourceError::Floating
        );
        assert!(
            !spec(hub, None, None, Floating::Allowed)
                .unwrap()
                .is_pinned()
        );
        assert!(!spec(hub, Some("main"), None, refused).unwrap().is_pinned());
        assert!(spec(hub, Some(commit), None, refused).unwrap().is_pinned());
        let upper = digest.to_uppercase();
        let pinned = spec(hub, None, Some(&upper), refused).unwrap();
        assert!(pinned.is_pinned());
        assert_eq!(pinned.sha256.unwrap().to_string(), digest);
        for (source, revision, sha256, expected) in [
            (hub, Some("a b"), None, "revision 'a b'"),
            (hub, Some("../x"), None, "revision '../x'"),
            (hub, None, Some("abc"), "sha256 'abc'"),
            (hub, None, Some(&*"é".repeat(32)), "is not 64"),
            (
                "https://h/a.gguf",
                Some(commit),
                None,
                "revision is for hf://",
            ),
            (
                "https://h/a-00001-of-00002.gguf",
                None,
                Some(&*digest),
                "is 2 files",
            ),
        ] {
            let error = spec(source, revision, sha256, refused)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_part_of_a_split_model_stands_for_all() {
        let parts = parse("hf://o/r/q4/a-00002-of-00003.gguf").unwrap().parts();
        let shown: Vec<_> = parts.iter().map(ToString::to_string).collect();
        let expected = ["1", "2", "3"].map(|n| format!("hf://o/r/q4/a-0000{n}-of-00003.gguf"));
        assert_eq!(shown, expected);
        assert_eq!(parts[2].file_name(), "a-00003-of-00003.gguf");
        for one in [
            "a-00004-of-00003",
            "a-00000-of-00003",
            "a-1-of-3",
            "a-00001-of-00001",
            "a-+0001-of-00003",
        ] {
            let source = parse(&format!("file:///m/{one}.gguf")).unwrap();
            assert_eq!(source.parts().len(), 1, "{one}");
        }
    }

    #[test]
    fn file_names_are_safe() {
        for (text, name) in [
            ("https://h/a%2F..%2Fb", "a_2F.._2Fb"),
            ("https://h/folder/", "model.gguf"),
            ("s3://bucket/...", "model.gguf"),
            ("s3://bucket/.hidden", "hidden"),
        ] {
            assert_eq!(parse(text).unwrap().file_name(), name);
        }
    }
}
