//! Keys.

use sideguard_types::control::keys::{KeyEntry, KeyRequest, NewKey};

use crate::query::with_query;
use crate::{Ask, Client, ClientError, json};

impl Client {
    /// `POST /v1/keys`: makes a key.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn create_key(&self, request: &KeyRequest) -> Result<NewKey, ClientError> {
        self.ask(Ask::post("/v1/keys", &json(request)?)).await
    }

    /// `GET /v1/keys`: all keys that the own one sees.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn keys(&self) -> Result<Vec<KeyEntry>, ClientError> {
        self.all("/v1/keys", Vec::new()).await
    }

    /// `DELETE /v1/keys?id=`: takes a key back.
    ///
    /// # Errors
    /// As every call: [`ClientError`].
    pub async fn revoke_key(&self, id: &str) -> Result<(), ClientError> {
        let path = with_query("/v1/keys", &[("id", Some(id.to_owned()))]);
        self.send(Ask::delete(&path)).await.map(drop)
    }
}
