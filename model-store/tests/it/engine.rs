//! The range engine on real servers: what they state of whole objects, which requests they get,
//! and what happens when an object is replaced.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use modelship_model_store::{
    ErrorKind, ModelStore, ModelVersion, Piece, ReadOptions, StoreOptions, StoreUrl, Trust,
};
use modelship_testkit::{Azurite, Versitygw, need};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest as _, Sha256};

use crate::backends::{azurite_options, s3_options};
use crate::fixtures::{dir, drain, kind, pattern, publish, read};

/// Notes every request on its way.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

#[derive(Debug)]
struct Noting {
    below: HttpClient,
    notes: Notes,
}

impl HttpConnector for Notes {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let below = ReqwestConnector::default().connect(options)?;
        let notes = self.clone();
        Ok(HttpClient::new(Noting { below, notes }))
    }
}

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let has = |name: &str| request.headers().contains_key(name);
        let note = format!(
            "{} {}{}{}{}",
            request.method(),
            request.uri().path(),
            if has("range") { " range" } else { "" },
            if has("if-match") { " pinned" } else { "" },
            if has("x-amz-checksum-mode") {
                " checksum"
            } else {
                ""
            },
        );
        self.notes.0.lock().unwrap().push(note);
        self.below.execute(request).await
    }
}

impl Notes {
    /// What was asked for since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A lock of objects whose SHA-256 nobody states, as a listing gives it.
async fn unsealed(url: &StoreUrl, raw: &dyn ObjectStore, names: &[&str]) -> ModelVersion {
    let (mut files, mut lines, mut total) = (Vec::new(), String::new(), 0);
    for name in names {
        let key = Path::parse(format!("{}/{name}", url.path())).unwrap();
        let meta = raw.head(&key).await.unwrap();
        let tag = meta.e_tag.unwrap();
        let line = format!("{name} {} etag:{tag} version:\n", meta.size);
        lines += &line;
        total += meta.size;
        files.push(serde_json::json!({"path": name, "size": meta.size, "etag": tag}));
    }
    let digest = hex::encode(Sha256::digest(lines));
    let lock = serde_json::json!({
        "url": url.to_string(), "selector": "latest", "policy": "listed", "version": "1",
        "tree_digest": format!("sha256:{digest}"), "total_size": total,
        "folder": "", "files": files,
    });
    serde_json::from_value(lock).unwrap()
}

fn trusts(model: &ModelVersion) -> Vec<Trust> {
    let trusts = model.files().iter().map(|file| file.trust.unwrap());
    trusts.collect()
}

fn check_digests(model: &ModelVersion, contents: &[&[u8]]) {
    for (file, bytes) in model.files().iter().zip(contents) {
        assert_eq!(
            file.sha256,
            Some(hex::encode(Sha256::digest(bytes))),
            "{}",
            file.path
        );
    }
}

fn s3(server: &Versitygw, bucket: &str, checksum: Option<Checksum>) -> AmazonS3 {
    let mut builder = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_allow_http(true)
        .with_bucket_name(bucket);
    if let Some(checksum) = checksum {
        builder = builder.with_checksum_algorithm(checksum);
    }
    builder.build().unwrap()
}

async fn put(raw: &dyn ObjectStore, key: &str, bytes: &[u8]) {
    let key = Path::parse(key).unwrap();
    raw.put(&key, bytes.to_vec().into()).await.unwrap();
}

async fn put_parts(raw: &dyn ObjectStore, key: &str, bytes: &[u8]) {
    let upload = raw.put_multipart(&Path::parse(key).unwrap()).await.unwrap();
    let mut writer = WriteMultipart::new_with_chunk_size(upload, 5 << 20);
    writer.write(bytes);
    writer.finish().await.unwrap();
}

/// Every kind of checksum that S3 keeps is read from the headers and compared; those of parts are
/// not taken for the whole.
#[tokio::test(flavor = "multi_thread")]
async fn s3_states_checksums_of_whole_objects() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_bucket("sums").await).is_none() {
        return;
    }
    let url: StoreUrl = "s3://sums/m".parse().unwrap();
    let (sha, crc) = (Some(Checksum::SHA256), Some(Checksum::CRC64NVME));
    let large = pattern((12 << 20) + 5, 9);
    put(&s3(&server, "sums", sha), "m/a-sha", b"sha256").await;
    put(&s3(&server, "sums", crc), "m/b-crc", b"crc64nvme").await;
    put_parts(&s3(&server, "sums", crc), "m/c-crc-parts", &large).await;
    put(&s3(&server, "sums", sha), "m/d-sha-large", &large).await;
    put_parts(&s3(&server, "sums", sha), "m/e-sha-parts", &large).await;
    let names = [
        "a-sha",
        "b-crc",
        "c-crc-parts",
        "d-sha-large",
        "e-sha-parts",
    ];
    let model = unsealed(&url, &s3(&server, "sums", None), &names).await;
    let notes = Notes::default();
    let store = ModelStore::open_over(&url, &s3_options(&server), Arc::new(notes.clone())).unwrap();
    let options = ReadOptions::default();
    let sealed = store.seal_version(&model, &options).await.unwrap();
    check_digests(&sealed, &[b"sha256", b"crc64nvme", &large, &large, &large]);
    let trusts = trusts(&sealed);
    let (parts, whole) = trusts.split_last().unwrap();
    let (sha, crc) = (Trust::StoreSha256, Trust::StoreCrc64);
    assert_eq!(whole, [sha, crc, crc, sha]);
    assert!(
        *parts <= Trust::StoreMd5,
        "checksums of checksums are none of the whole"
    );
    let mut asked = notes.take();
    let last = asked.pop().unwrap();
    assert_eq!(last, "GET /sums", "whether they still belong together");
    // Only of files in several parts is the whole asked for by itself.
    let heads: Vec<_> = asked
        .iter()
        .filter(|note| note.starts_with("HEAD"))
        .collect();
    assert_eq!(heads.len(), 3, "{asked:?}");
    assert!(
        asked.iter().all(|note| note.ends_with("pinned checksum")),
        "{asked:?}"
    );
    let gets = asked.iter().filter(|note| note.starts_with("GET"));
    assert!(
        gets.clone().all(|note| note.contains(" range ")),
        "{asked:?}"
    );
}

/// Requests that are not signed with the wish for checksums do not have it.
#[tokio::test(flavor = "multi_thread")]
async fn s3_is_read_without_heads_and_listed_without_unsigned_headers() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_bucket("asked").await).is_none() {
        return;
    }
    let url: StoreUrl = "s3://asked/digits".parse().unwrap();
    let notes = Notes::default();
    let store = ModelStore::open_over(&url, &s3_options(&server), Arc::new(notes.clone())).unwrap();
    let large = pattern((9 << 20) + 1, 3);
    let source = dir(&[("a", b"1"), ("empty", b""), ("w", &large)]);
    let model = publish(&store, source.path(), "1").await.unwrap();
    assert_eq!(store.versions().await.unwrap(), ["1"]);
    assert!(notes.take().iter().all(|note| !note.contains("checksum")));
    let mut pieces = store
        .read_many(&model, &["a", "empty", "w"], &ReadOptions::default())
        .unwrap();
    let (mut bytes, mut ends) = (0, 0);
    while let Some(piece) = pieces.try_next().await.unwrap() {
        match piece {
            Piece::Chunk { bytes: chunk, .. } => bytes += chunk.len(),
            Piece::End { .. } => ends += 1,
            _ => {}
        }
    }
    assert_eq!((bytes, ends), (large.len() + 1, 3));
    let asked = notes.take();
    assert!(
        asked.iter().all(|note| note.starts_with("GET")),
        "{asked:?}"
    );
    let ranges = asked.iter().filter(|note| note.contains(" range ")).count();
    assert_eq!(ranges, asked.len() - 1, "an empty object has no range");
}

/// A pinned version is read to its end, though another one has taken its place.
#[tokio::test(flavor = "multi_thread")]
async fn s3_versions_are_read_to_their_end() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_versioned_bucket("kept").await).is_none() {
        return;
    }
    let url: StoreUrl = "s3://kept/digits".parse().unwrap();
    let store = ModelStore::open(&url, &s3_options(&server)).unwrap();
    let bytes = pattern(12 << 20, 5);
    let source = dir(&[("w", &bytes)]);
    let model = publish(&store, source.path(), "1").await.unwrap();
    assert!(model.files()[0].version_id.is_some());
    let options = ReadOptions::default().with_window(2 << 20);
    let mut stream = store.read_with(&model, "w", 0, &options).unwrap();
    let first = stream.next().await.unwrap().unwrap();
    let raw = s3(&server, "kept", None);
    put(&raw, "digits/versions/1/files/w", &pattern(12 << 20, 6)).await;
    let rest = drain(stream).await.unwrap();
    assert!([&first[..], &rest].concat() == bytes);
}

/// Azure keeps the MD5 of a blob that came in one piece, and none of one that came in blocks.
#[tokio::test(flavor = "multi_thread")]
async fn azure_states_the_md5_of_blobs_that_came_in_one_piece() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    if need(azurite.create_container("sums").await).is_none() {
        return;
    }
    let raw = MicrosoftAzureBuilder::new()
        .with_account(azurite.account())
        .with_access_key(azurite.key())
        .with_endpoint(azurite.blob_endpoint())
        .with_allow_http(true)
        .with_container_name("sums")
        .build()
        .unwrap();
    let large = pattern((10 << 20) + 1, 7);
    put(&raw, "m/a", b"one piece").await;
    put_parts(&raw, "m/b", &large).await;
    put(&raw, "m/c", b"").await;
    put(&raw, "m/d", &large).await;
    let url: StoreUrl = format!("az://sums.{}/m", azurite.account())
        .parse()
        .unwrap();
    let model = unsealed(&url, &raw, &["a", "b", "c", "d"]).await;
    let notes = Notes::default();
    let options: StoreOptions = azurite_options(&azurite);
    let store = ModelStore::open_over(&url, &options, Arc::new(notes.clone())).unwrap();
    let sealed = store
        .seal_version(&model, &ReadOptions::default())
        .await
        .unwrap();
    check_digests(&sealed, &[b"one piece", &large, b"", &large]);
    assert_eq!(trusts(&sealed)[..2], [Trust::StoreMd5, Trust::Observed]);
    assert_eq!(trusts(&sealed)[3], Trust::StoreMd5);
    let mut asked = notes.take();
    // In the end it is asked whether they still belong together, and whether the empty blob is one.
    let list = asked.iter().position(|note| note.ends_with("/sums"));
    assert_eq!(asked.split_off(list.unwrap()).len(), 2);
    assert!(
        asked.iter().all(|note| note.starts_with("GET")),
        "{asked:?}"
    );
    let options = ReadOptions::default().with_require(Trust::StoreMd5);
    assert!(
        drain(store.read_with(&model, "d", 0, &options).unwrap())
            .await
            .unwrap()
            == large
    );
    let stream = store.read_with(&model, "b", 0, &options).unwrap();
    assert_eq!(kind(drain(stream).await), ErrorKind::Untrusted);
    // Another blob in its place is another blob, also without a digest.
    put(&raw, "m/a", b"one PIECE").await;
    assert_eq!(kind(read(&store, &model, "a").await), ErrorKind::Changed);
}
