//! Folders of small documents: their names with one list request.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::ObjectMeta;

use crate::error::Result;
use crate::store::ModelStore;

impl ModelStore {
    /// The objects `folder/NAME.json` by `NAME`, with one list request for each thousand. What is
    /// in folders below is not looked at.
    pub(crate) async fn documents(
        &self,
        stage: &'static str,
        folder: &str,
    ) -> Result<BTreeMap<String, ObjectMeta>> {
        let listed = self.objects_below(stage, folder).await?;
        let named = listed.into_iter().filter_map(|(path, meta)| {
            let name = path.strip_suffix(".json")?;
            (!name.contains('/')).then(|| (name.to_owned(), meta))
        });
        Ok(named.collect())
    }

    /// Everything below `folder`, by path inside it; nothing when it does not exist.
    pub(crate) async fn objects_below(
        &self,
        stage: &'static str,
        folder: &str,
    ) -> Result<BTreeMap<String, ObjectMeta>> {
        let prefix = self.key(folder)?;
        let mut listed = self.objects().list(Some(&prefix));
        let mut found = BTreeMap::new();
        loop {
            match listed.try_next().await {
                Ok(Some(meta)) => {
                    let inside = meta.location.as_ref().strip_prefix(prefix.as_ref());
                    if let Some(path) = inside.and_then(|path| path.strip_prefix('/')) {
                        found.insert(path.to_owned(), meta);
                    }
                }
                Ok(None) => return Ok(found),
                Err(error) => {
                    return self.missing_or(stage, folder, &error).map(|()| found);
                }
            }
        }
    }
}
