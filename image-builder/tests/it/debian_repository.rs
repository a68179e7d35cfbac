//! A Debian archive for tests: made in memory, signed with a fresh key, served on loopback.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use modelship_image_builder::debian::{SignedBy, Source, Sources};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedSecretKey,
    SubkeyParamsBuilder,
};
use pgp::types::Password;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A served archive; everything in it can be altered after it has been signed.
pub(crate) struct Repository {
    pub(crate) files: Files,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
    key: SignedSecretKey,
    packages: String,
}

impl Repository {
    /// An empty archive with a new key, whose subkey signs.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (files, requests) = (Files::default(), Arc::<Mutex<Vec<String>>>::default());
        let (served, noted) = (Arc::clone(&files), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served), Arc::clone(&noted)));
            }
        });
        Self {
            files,
            requests,
            address,
            key: new_key(),
            packages: String::new(),
        }
    }

    /// Adds a package; `control` are its further fields.
    pub(crate) fn add(&mut self, name: &str, control: &str, deb: Vec<u8>) {
        let path = format!("pool/main/{name}_1.0-1_all.deb");
        let (size, sum) = (deb.len(), sha256(&deb));
        let stanza = format!(
            "Package: {name}\nVersion: 1.0-1\nArchitecture: all\n{control}Filename: {path}\nSize: {size}\nSHA256: {sum}\n\n"
        );
        self.packages.push_str(&stanza);
        self.put(&path, deb);
    }

    /// Writes and signs the index; `fields` are further fields of the release.
    pub(crate) fn publish(&self, fields: &str) {
        let index = compressed(self.packages.as_bytes(), "xz");
        let (size, sum) = (index.len(), sha256(&index));
        let release = format!(
            "Suite: oldtest\nCodename: test\nArchitectures: amd64\n{fields}SHA256:\n {sum} {size} main/binary-amd64/Packages.xz\n"
        );
        self.put("dists/test/main/binary-amd64/Packages.xz", index.clone());
        self.put(
            &format!("dists/test/main/binary-amd64/by-hash/SHA256/{sum}"),
            index,
        );
        self.put(
            "dists/test/InRelease",
            sign(&release, &self.key).into_bytes(),
        );
    }

    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.files.lock().unwrap().insert(format!("/{path}"), bytes);
    }

    /// Changes the bytes of each file whose path ends with `suffix`.
    pub(crate) fn alter(&self, suffix: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut files = self.files.lock().unwrap();
        let mut altered = 0;
        for (_, bytes) in files.iter_mut().filter(|(path, _)| path.ends_with(suffix)) {
            change(bytes);
            altered += 1;
        }
        assert!(altered > 0, "nothing ends with {suffix}");
    }

    /// The requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(crate) fn key(&self) -> SignedBy {
        SignedBy::Inline(armored(&self.key))
    }

    pub(crate) fn sources(&self, signed_by: SignedBy) -> Sources {
        Sources::new().with_source(self.source("test").with_signed_by(signed_by))
    }

    pub(crate) fn source(&self, suite: &str) -> Source {
        Source::new(&format!("http://{}", self.address), suite, ["main"]).unwrap()
    }
}

/// An armored key nobody signed anything with.
pub(crate) fn foreign_key() -> SignedBy {
    SignedBy::Inline(armored(&new_key()))
}

fn new_key() -> SignedSecretKey {
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .build()
        .unwrap();
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Archive <archive@modelship.invalid>".into())
        .subkeys(vec![subkey])
        .build()
        .unwrap()
        .generate(rand_08::thread_rng())
        .unwrap()
}

fn armored(key: &SignedSecretKey) -> String {
    key.to_public_key()
        .to_armored_string(ArmorOptions::default())
        .unwrap()
}

fn sign(text: &str, key: &SignedSecretKey) -> String {
    let subkey = &key.secret_subkeys[0].key;
    CleartextSignedMessage::sign(rand_08::thread_rng(), text, subkey, &Password::empty())
        .unwrap()
        .to_armored_string(ArmorOptions::default())
        .unwrap()
}

async fn serve(stream: TcpStream, files: Files, requests: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    if stream.read_line(&mut first).await.is_err() {
        return;
    }
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = files.lock().unwrap().get(&path).cloned();
    requests.lock().unwrap().push(path);
    let (status, body) = body.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // A client that hangs up early is part of some tests.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

/// What a package made for a test installs.
#[derive(Clone, Copy)]
pub(crate) enum Item<'a> {
    File(&'a str, u32, &'a str),
    Dir(&'a str),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str),
}

/// A binary package with its data compressed as `compression`.
pub(crate) fn deb(name: &str, control: &str, items: &[Item<'_>], compression: &str) -> Vec<u8> {
    let mut fields = tar::Builder::new(Vec::new());
    let text = format!("Package: {name}\nVersion: 1.0-1\nArchitecture: all\n{control}");
    append(&mut fields, Item::File("./control", 0o644, &text));
    let mut data = tar::Builder::new(Vec::new());
    append(&mut data, Item::Dir("./"));
    for item in items {
        append(&mut data, *item);
    }
    let data = compressed(&data.into_inner().unwrap(), compression);
    let fields = compressed(&fields.into_inner().unwrap(), "gz");
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", &fields),
        (&format!("data.tar.{compression}"), &data),
    ])
}

fn append(archive: &mut tar::Builder<Vec<u8>>, item: Item<'_>) {
    let (path, mode, kind, link, body) = match item {
        Item::File(path, mode, body) => (path, mode, tar::EntryType::Regular, "", body),
        Item::Dir(path) => (path, 0o755, tar::EntryType::Directory, "", ""),
        Item::Link(path, to) => (path, 0o777, tar::EntryType::Symlink, to, ""),
        Item::Hard(path, to) => (path, 0o644, tar::EntryType::Link, to, ""),
        Item::Device(path) => (path, 0o666, tar::EntryType::Char, "", ""),
    };
    let mut header = tar::Header::new_gnu();
    // Written by hand: the crate's own setters refuse the hostile names some tests need.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(body.len() as u64);
    header.set_cksum();
    archive.append(&header, body.as_bytes()).unwrap();
}

pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, body) in members {
        let size = body.len();
        writeln!(out, "{name:<16}0           0     0     100644  {size:<10}`").unwrap();
        out.extend_from_slice(body);
        if size % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

pub(crate) fn compressed(bytes: &[u8], compression: &str) -> Vec<u8> {
    match compression {
        "xz" => {
            let options = lzma_rust2::XzOptions::with_preset(1);
            let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "zst" => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(bytes, level)
        }
        other => unreachable!("no test uses {other}"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
