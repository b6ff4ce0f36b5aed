//! stub
use anyhow::Result;

use crate::{Document, Documents, Expected, Key, Prefix, Token};

#[derive(Debug, Clone)]
pub struct Directory;

impl Directory {
    pub(crate) fn open(_root: std::path::PathBuf) -> Self {
        todo!()
    }
    pub(crate) async fn read(&self, _prefixes: &[Prefix]) -> Result<(Documents, Token)> {
        todo!()
    }
    pub(crate) async fn get(&self, _key: &Key) -> Result<Option<Document>> {
        todo!()
    }
    pub(crate) async fn put(&self, _key: &Key, _bytes: &[u8]) -> Result<()> {
        todo!()
    }
    pub(crate) async fn compare_and_set(&self, _key: &Key, _bytes: &[u8], _expected: &Expected) -> Result<bool> {
        todo!()
    }
    pub(crate) async fn delete(&self, _key: &Key) -> Result<()> {
        todo!()
    }
    pub(crate) async fn wait(&self, _token: &Token) -> Result<()> {
        todo!()
    }
}
