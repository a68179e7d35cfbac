//! Is what a lock names still there, as a whole? And the same version pinned anew.

use std::collections::BTreeMap;

use super::examine::model_paths;
use super::listing::{Listed, below};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelFile, ModelVersion};
use crate::store::ModelStore;

const STAGE: &str = "check model again";

impl ModelStore {
    /// Checks that the set of files is still the one that was locked, with one list request for
    /// each thousand files: a set of several objects has no tag of its own, so that only a second
    /// look, after everything was read, shows that nobody replaced a part of it meanwhile.
    ///
    /// Fetchers call this for locks that are not [sealed](ModelVersion::is_sealed).
    ///
    /// # Errors
    /// `Changed` names the first difference. Those of the store.
    pub async fn recheck(&self, model: &ModelVersion) -> Result<()> {
        let present = self.present(model).await?;
        for file in model.files() {
            let Some(now) = present.get(&file.path) else {
                return Err(self.set_changed(model, file, "was removed"));
            };
            if now.size != file.size || (file.etag.is_some() && now.etag != file.etag) {
                return Err(self.set_changed(model, file, "was replaced"));
            }
        }
        // What else lies beside published files was never a part of the version.
        let new = present
            .values()
            .find(|file| !model.is_published() && model.file(&file.path).is_none());
        match new {
            Some(new) => {
                let file = ModelFile::new(new.path.clone(), new.size, None);
                Err(self.set_changed(model, &file, "was added"))
            }
            None => Ok(()),
        }
    }

    /// The version of a lock that was kept, for exactly the same bytes, pinned to what the store
    /// has now.
    ///
    /// A file that still has its tag stays as it is, and so does one whose own version the store
    /// still keeps. Where the tag is another one, for example because the store was copied, a file
    /// whose SHA-256 is known is pinned to the new tag, and its bytes are verified when they are
    /// read. So a rebuild from a lock has the same bytes, or an error. A lock may also be
    /// [read](Self::read) as it is: then the tags must be the same.
    ///
    /// # Errors
    /// `Invalid` for a lock of another store. `Changed` for a file that is gone, or whose bytes
    /// cannot be told to be the same. Those of the store.
    pub async fn relock(&self, lock: &ModelVersion) -> Result<ModelVersion> {
        if lock.url() != self.url() {
            let detail = format!("the lock is of {}", lock.url());
            return Err(Error::invalid(STAGE, self.name_of(""), detail));
        }
        let present = self.present(lock).await?;
        let mut files = Vec::with_capacity(lock.files().len());
        for file in lock.files() {
            files.push(self.pin_again(lock, file, present.get(&file.path)).await?);
        }
        lock.with_files(files)
    }

    async fn pin_again(
        &self,
        lock: &ModelVersion,
        file: &ModelFile,
        now: Option<&Listed>,
    ) -> Result<ModelFile> {
        let same_size = now.filter(|now| now.size == file.size);
        if same_size.is_some_and(|now| now.etag == file.etag) {
            return Ok(file.clone());
        }
        if let Some(id) = &file.version_id {
            let kept = self.head_version(&lock.object(file), Some(id)).await?;
            let kept = kept.filter(|kept| {
                kept.meta.size == file.size
                    && kept.meta.version.as_ref() == Some(id)
                    && (file.etag.is_none() || kept.meta.e_tag == file.etag)
            });
            if kept.is_some() {
                return Ok(file.clone());
            }
        }
        match same_size {
            Some(now) if file.sha256.is_some() => Ok(ModelFile {
                etag: now.etag.clone(),
                version_id: None,
                ..file.clone()
            }),
            Some(_) => Err(self.set_changed(lock, file, "was replaced")),
            None if now.is_some() => Err(self.set_changed(lock, file, "was replaced")),
            None => Err(self.set_changed(lock, file, "was removed")),
        }
    }

    /// The files that are where the lock says, without markers and checksums.
    async fn present(&self, model: &ModelVersion) -> Result<BTreeMap<String, Listed>> {
        let Some(folder) = model.folder() else {
            let found = self.head_version("", None).await?;
            let name = model.files().first().map(|file| file.path.clone());
            return Ok(found
                .zip(name)
                .map(|(found, path)| {
                    let listed = Listed {
                        path: path.clone(),
                        size: found.meta.size,
                        etag: found.meta.e_tag,
                        modified: found.meta.last_modified,
                    };
                    (path, listed)
                })
                .into_iter()
                .collect());
        };
        let mut listed = self.list_files(folder).await?;
        if !model.is_published() {
            let paths = model_paths(&listed);
            let paths: Vec<String> = paths.into_iter().map(str::to_owned).collect();
            listed.retain(|file| paths.binary_search(&file.path).is_ok());
        }
        let named = listed.into_iter().map(|file| (file.path.clone(), file));
        Ok(named.collect())
    }

    fn set_changed(&self, model: &ModelVersion, file: &ModelFile, what: &str) -> Error {
        let folder = model.folder().unwrap_or_default();
        let detail = format!(
            "the set of files is not the one that was locked: {:?} {what}",
            file.path
        );
        let object = self.name_of(&below(folder, ""));
        Error::new(ErrorKind::Changed, STAGE, object, detail).with_hint("resolve the model again")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStore, ObjectStoreExt};
    use proptest::prelude::*;

    use super::*;
    use crate::{ResolveOptions, Selector};

    /// What happens to a set of files, by the number of the file it happens to.
    #[derive(Clone, Debug)]
    enum Step {
        Nothing,
        Replace(usize),
        Remove(usize),
        Add(String),
        Mark,
    }

    fn steps() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Nothing),
            Just(Step::Mark),
            (0_usize..9).prop_map(Step::Replace),
            (0_usize..9).prop_map(Step::Remove),
            "[a-z]{1,3}(/[a-z]{1,3})?".prop_map(|path| Step::Add(format!("new-{path}"))),
        ]
    }

    async fn put(objects: &InMemory, path: &str) {
        let key = Path::parse(format!("m/1/{path}")).unwrap();
        objects.put(&key, "bytes".into()).await.unwrap();
    }

    /// Whether the files are other ones now.
    async fn take(objects: &InMemory, files: &[String], step: Step) -> bool {
        match step {
            Step::Nothing => return false,
            Step::Mark => {
                put(objects, "_SUCCESS").await;
                return false;
            }
            Step::Replace(at) => put(objects, &files[at % files.len()]).await,
            Step::Remove(at) => {
                let key = Path::parse(format!("m/1/{}", files[at % files.len()])).unwrap();
                objects.delete(&key).await.unwrap();
            }
            Step::Add(path) => put(objects, &path).await,
        }
        true
    }

    async fn check(files: Vec<String>, step: Step) {
        let objects = Arc::new(InMemory::new());
        for path in &files {
            put(&objects, path).await;
        }
        let shared: Arc<dyn ObjectStore> = Arc::clone(&objects) as _;
        let url = "memory://m".parse().unwrap();
        let store = ModelStore::with_object_store(url, shared, Path::parse("m").unwrap());
        let quiet = ResolveOptions::default().with_quiescence(Duration::ZERO);
        let store = store.with_resolve_options(quiet);
        let model = store.resolve(&Selector::Version("1".into())).await.unwrap();
        let text = serde_json::to_string(&model).unwrap();
        let kept: ModelVersion = serde_json::from_str(&text).unwrap();
        let changed = take(&objects, &files, step).await;
        let again = store.recheck(&kept).await.map_err(|error| error.kind());
        assert_eq!(again.is_err(), changed);
        assert!(again.err().is_none_or(|kind| kind == ErrorKind::Changed));
    }

    proptest! {
        #[test]
        fn a_second_look_sees_every_difference_and_no_other(
            files in prop::collection::btree_set("[a-z]{1,4}", 1..6), step in steps(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(check(files.into_iter().collect(), step));
        }
    }
}
