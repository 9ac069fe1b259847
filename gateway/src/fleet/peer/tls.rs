//! TLS between gateways, where the network between them is not the operator's own.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::BoxedIo;

/// This gateway's certificate, and the authority of all the others'. Who a gateway is, its badge says; what TLS adds is
/// that nobody between reads along.
#[derive(Clone)]
pub struct PeerTls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, or no PEM.
    #[error("{0}: {1}")]
    File(String, rustls::pki_types::pem::Error),
    /// Not what TLS needs.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl PeerTls {
    /// From PEM files: a certificate (with what links it to the authority), its key, and the authority's certificate.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, TlsError> {
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, TlsError> {
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            read.map_err(|error| TlsError::File(path.display().to_string(), error))
        };
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::File(key.display().to_string(), e))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(authority)? {
            roots.add(authority)?;
        }
        let mut server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        (server.alpn_protocols, client.alpn_protocols) = (vec![b"h2".to_vec()], vec![b"h2".to_vec()]);
        Ok(Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() })
    }

    /// This end of a connection to `address` (`host:port`), whose certificate must be for that host.
    pub(super) async fn connect(&self, address: &str, socket: TcpStream) -> std::io::Result<BoxedIo> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(self.connector.connect(name, socket).await?))
    }

    /// This end of a connection that came in.
    pub(super) async fn accept(&self, socket: TcpStream) -> std::io::Result<BoxedIo> {
        Ok(Box::new(self.acceptor.accept(socket).await?))
    }
}
