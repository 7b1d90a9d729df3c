from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("cloud", "0009_pools"),
    ]

    operations = [
        migrations.AddField(
            model_name="server",
            name="fork",
            field=models.UUIDField(db_index=True, null=True),
        ),
        migrations.AddField(
            model_name="server",
            name="forked_by",
            field=models.BigIntegerField(null=True),
        ),
    ]
