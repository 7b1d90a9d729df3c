from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('cloud', '0003_descriptions_autostart_firmware'),
    ]

    operations = [
        migrations.AddField(
            model_name='server',
            name='autostart_at',
            field=models.DateTimeField(null=True),
        ),
    ]
