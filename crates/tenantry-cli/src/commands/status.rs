//! `tenantry status`.

use serde_json::json;

use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::{self, Format};

pub(super) async fn run(dir: &DataDir, format: Format<'_>) -> Result<(), Failure> {
    let store = dir.open().await?;
    let status = store.status().await;
    store.close().await?;
    let status = status?;
    output::record(
        format,
        &[
            ("path", json!(status.path.display().to_string())),
            ("store_id", json!(status.store_id.to_string())),
            ("schema_version", json!(status.schema_version)),
            ("sqlite_version", json!(status.sqlite_version)),
            ("journal_mode", json!(status.journal_mode)),
            ("read_only", json!(status.read_only)),
            ("open_method", json!(status.open_method)),
            ("move_method", json!(status.move_method)),
            ("user_count", json!(status.user_count)),
            ("database_bytes", json!(status.database_bytes)),
            ("wal_bytes", json!(status.wal_bytes)),
        ],
    )
}
