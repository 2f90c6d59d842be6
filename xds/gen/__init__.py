"""
Code that protoc wrote from `protos/`: google protobuf messages of the discovery requests and responses.

Nothing here is edited by hand; the command that regenerates it stands at the top of each `.proto`.
"""
