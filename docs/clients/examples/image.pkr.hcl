# An image made by starting a server from `tiny`, running commands in it over SSH, and taking a snapshot.
# Servers have no public address yet, and this Packer knows no other: ssh_proxy.py leads it to the server's SSH.
variable "proxy_port" {
  type = number
}

source "hcloud" "golden" {
  server_name     = "golden-build"
  server_type     = "nano"
  image           = "tiny"
  location        = "local"
  snapshot_name   = "golden"
  snapshot_labels = { made_by = "packer" }
  ssh_username    = "root"
  ssh_proxy_host  = "127.0.0.1"
  ssh_proxy_port  = var.proxy_port
  ssh_timeout     = "3m"
}

build {
  sources = ["source.hcloud.golden"]

  provisioner "shell" {
    inline = ["echo golden > /etc/golden", "sync"]
  }
}
