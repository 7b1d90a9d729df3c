"""The one Django app of the control plane."""

from django.apps import AppConfig


class CloudConfig(AppConfig):
    """Registers models and tasks under the label `cloud`."""

    name = "paddock.cloud"
    label = "cloud"
    default_auto_field = "django.db.models.BigAutoField"
