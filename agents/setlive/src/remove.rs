//! Removing services, in the one order in which runit lets them go for good.

use std::time::Duration;

use anyhow::{Context, Result};
use converge::{blocking, files};
use store::AppName;
use tokio::task::JoinSet;
use tracing::info;

use crate::Setlive;
use crate::decide::Service;
use crate::runit::Control;
use crate::service::Places;

/// Stops and removes services, all at once; what is not there is fine.
pub(crate) async fn services(
    setlive: &Setlive,
    app: &AppName,
    services: impl Iterator<Item = &String>,
    patience: Duration,
) -> Result<()> {
    let mut removing = JoinSet::new();
    for service in services {
        info!(%app, "Removing the service {service}");
        let (places, control, service) = (setlive.site.places.clone(), setlive.site.control.clone(), service.clone());
        removing.spawn_local(async move { one(&places, &control, &service, patience).await });
    }
    while let Some(removed) = removing.join_next().await {
        removed.context("removing a service")??;
    }
    Ok(())
}

/// Down, unlinked, let go by runsvdir, then deleted: a directory that is deleted under its runsv, or a runsv that ends
/// before runsvdir has let go, comes back broken.
async fn one(places: &Places, control: &Control, service: &str, patience: Duration) -> Result<()> {
    let (staged, link) = (places.staged(service), places.link(service));
    if control.observe(&staged)? != Service::Unsupervised {
        control.stop(&staged, patience).await?;
    }
    blocking(move || files::remove("link to a service", &link)).await?;
    control.release(&staged).await?;
    blocking(move || files::remove_directory("service", &staged)).await
}
