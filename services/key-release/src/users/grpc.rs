//! gRPC `UserAdministration`: nothing is decided here.

use jiff::Timestamp;
use keyferry_contract::release::v1 as pb;
use keyferry_contract::release::v1::user_administration_server::UserAdministration;
use keyferry_identifiers::UserId;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Admin, Caller, ImportedUser, NewUser, User, UserChange, Users};
use crate::Denial;

/// The service.
pub(crate) struct UserService(pub(crate) Users);

/// Who makes this call, over gRPC.
pub(crate) async fn authenticated<T>(users: &Users, request: &Request<T>) -> Result<Admin, Status> {
    users.authenticate(&Caller::of_grpc(request)).await.map_err(|denial| denial.status())
}

#[tonic::async_trait]
impl UserAdministration for UserService {
    async fn create_user(&self, request: Request<pb::CreateUserRequest>) -> Result<Response<pb::User>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let request = request.into_inner();
        let new = NewUser { username: request.username, password: Zeroizing::new(request.password), permissions: request.permissions };
        answer(self.0.create(&admin, new).await)
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::User>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let user = async { self.0.user(&admin, user_id(&request.get_ref().user_id)?).await };
        answer(user.await)
    }

    async fn list_users(&self, request: Request<pb::ListUsersRequest>) -> Result<Response<pb::ListUsersResponse>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let name = Some(request.get_ref().username.as_str()).filter(|name| !name.is_empty());
        let users = self.0.find(&admin, name).await.map_err(|denial| denial.status())?;
        Ok(Response::new(pb::ListUsersResponse { users: users.into_iter().map(message).collect() }))
    }

    async fn update_user(&self, request: Request<pb::UpdateUserRequest>) -> Result<Response<pb::User>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let request = request.into_inner();
        let change =
            UserChange { username: request.username, password: Zeroizing::new(request.password), permissions: request.permissions };
        let user = async { self.0.update(&admin, user_id(&request.user_id)?, change).await };
        answer(user.await)
    }

    async fn delete_user(&self, request: Request<pb::DeleteUserRequest>) -> Result<Response<pb::DeleteUserResponse>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let deleted = async { self.0.delete(&admin, user_id(&request.get_ref().user_id)?).await };
        deleted.await.map(|()| Response::new(pb::DeleteUserResponse {})).map_err(|denial| denial.status())
    }

    async fn import_user(&self, request: Request<pb::ImportUserRequest>) -> Result<Response<pb::User>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let request = request.into_inner();
        let user = async {
            let imported = ImportedUser {
                user_id: user_id(&request.user_id)?,
                username: request.username,
                bcrypt_hash: request.bcrypt_hash,
                permissions: request.permissions,
                created_at: request.created_at.map(|at| time("created_at", &at)).transpose()?,
                updated_at: request.updated_at.map(|at| time("updated_at", &at)).transpose()?,
            };
            self.0.import(&admin, imported).await
        };
        answer(user.await)
    }

    async fn replace_token_signing_key(
        &self,
        request: Request<pb::ReplaceTokenSigningKeyRequest>,
    ) -> Result<Response<pb::ReplaceTokenSigningKeyResponse>, Status> {
        let admin = authenticated(&self.0, &request).await?;
        let pem = Some(Zeroizing::new(request.into_inner().private_key_pem)).filter(|pem| !pem.is_empty());
        let key_id = self.0.replace_signing_key(&admin, pem).await.map_err(|denial| denial.status())?;
        Ok(Response::new(pb::ReplaceTokenSigningKeyResponse { key_id }))
    }
}

fn answer(user: Result<User, Denial>) -> Result<Response<pb::User>, Status> {
    user.map(|user| Response::new(message(user))).map_err(|denial| denial.status())
}

fn message(user: User) -> pb::User {
    pb::User {
        user_id: user.user_id.to_string(),
        username: user.username,
        permissions: user.permissions.iter().map(ToString::to_string).collect(),
        created_at: Some(stamp(user.created_at)),
        updated_at: user.updated_at.map(stamp),
    }
}

fn user_id(text: &str) -> Result<UserId, Denial> {
    UserId::parse(text).map_err(|_| Denial::malformed("user_id", "is not a UUID in canonical form (8-4-4-4-12 hex digits)"))
}

fn stamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

fn time(field: &'static str, stamp: &prost_types::Timestamp) -> Result<Timestamp, Denial> {
    Timestamp::new(stamp.seconds, stamp.nanos).map_err(|_| Denial::malformed(field, "is no point in time"))
}
